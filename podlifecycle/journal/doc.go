// Package journal keeps a small map of keys to values on disk, so that it
// survives a kill at any moment and damage of any byte. An agent stores in it
// what a container runtime cannot tell after a restart.
//
//	j, found, err := journal.Open(journal.Config{Path: "/var/lib/agent/journal"})
//	if found.Quarantined != "" {
//		log.Info("journal was damaged", "lost", found.Lost, "copy", found.Quarantined)
//	}
//	err = j.Put("pod/0e1f", value)
//	err = j.Sync() // now it is durable
//
// It is not a database: all values are held in memory, there is one process to
// a file, and there are no transactions across keys.
//
// # How it survives
//
// The file is a row of records, each with a mark, its length and a checksum
// (CRC-32C), appended and never changed. What a crash left unfinished at the
// end is cut off. If a record in between is damaged, a copy of the file is set
// aside, the scan goes on at the next sound record, and the file is rewritten
// from what was found. Once most of the file is superseded it is written anew
// beside the old one, synced, renamed, and the directory synced. On a full disk
// everything is held in memory, and written once there is room; a file beside it,
// Path.spare, keeps room for one rewrite, because what is to be noted may be what
// frees the disk.
//
// # Traps
//
//   - A damaged record may have been the newest of its key; the one before
//     counts then. [Found] says that something was lost.
//   - Put alone is not durable: call Sync before an act that relies on it.
package journal
