// Package discovery finds the cgroups of a machine and tells a metrics.Meter of
// each within a fraction of a millisecond of its making:
//
//	var meter *metrics.Meter
//	found, err := discovery.New(discovery.Config{
//		OnChange: func(emptied ...string) { meter.Refresh(emptied...) },
//	})
//	if err != nil {
//		return err
//	}
//	if meter, err = metrics.New(metrics.Config{Targets: found}); err != nil {
//		return err
//	}
//	go found.Run(ctx)
//	go meter.Run(ctx)
//
// # How it knows
//
// One fanotify mark for each hierarchy tells of every cgroup that is made or
// removed, whatever their number: it takes CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH
// and Linux 6.6, where cgroups got the identity that it wants. Without them,
// inotify does, with a watch for each cgroup; and
// where that finds no room (fs.inotify.max_user_watches), all of the tree is
// read every few seconds. Stats says which it is. Whichever it is, the tree is
// read every Config.Rescan too, so that an event that was lost costs time and
// nothing else.
//
// On cgroup v2 the end of the last process of a cgroup is told as well: OnChange
// gets its path, while its counters can still be read; on hybrid machines by
// fanotify alone, as far as runtimes use the v2 tree. v1 has nothing of the kind.
//
// # What counts as found
//
// On v1 a cgroup is a directory in several trees, made one after another. It is
// found once it is in those of CPU accounting and of memory, without which it
// cannot be metered.
//
// It names no pods: Describe does that, for whoever knows them. Traps: fanotify
// sees the whole hierarchy even where Below is a part of it, but not what is
// done in another mount namespace to hierarchies that this one has not mounted.
package discovery
