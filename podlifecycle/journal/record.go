package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A record is
//
//	mark[4] length[4] checksum[4] op[1] keyLength[2] key value
//
// in little endian; length counts what follows the checksum, which is taken
// over length and all that follows it.
const (
	headSize = 12
	maxSize  = 16 << 20
)

const (
	opPut    = 1
	opDelete = 2
)

var (
	mark  = [4]byte{0xd7, 'N', 'K', 0x1a}
	table = crc32.MakeTable(crc32.Castagnoli)
)

type record struct {
	op    byte
	key   string
	value []byte
}

func appendRecord(b []byte, r record) []byte {
	start := len(b)
	b = append(b, mark[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(3+len(r.key)+len(r.value)))
	b = append(b, 0, 0, 0, 0, r.op)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.key)))
	b = append(b, r.key...)
	b = append(b, r.value...)
	binary.LittleEndian.PutUint32(b[start+8:], checksum(b[start:]))
	return b
}

func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[4:8], table), table, b[headSize:])
}

func recordSize(key string, value []byte) int64 {
	return int64(headSize + 3 + len(key) + len(value))
}

// parse reads the record at the start of b. short tells that b ends before the
// record does, which is how a crash leaves it.
func parse(b []byte) (r record, size int, short, ok bool) {
	if len(b) < headSize {
		return r, 0, bytes.HasPrefix(mark[:], b[:min(len(b), 4)]), false
	}
	if [4]byte(b[:4]) != mark {
		return r, 0, false, false
	}
	length := int(binary.LittleEndian.Uint32(b[4:]))
	if length < 3 || length > maxSize {
		return r, 0, false, false
	}
	if len(b) < headSize+length {
		return r, 0, true, false
	}
	b = b[:headSize+length]
	if checksum(b) != binary.LittleEndian.Uint32(b[8:]) {
		return r, 0, false, false
	}
	keyLength := int(binary.LittleEndian.Uint16(b[headSize+1:]))
	if keyLength > length-3 {
		return r, 0, false, false
	}
	rest := b[headSize+3:]
	return record{op: b[headSize], key: string(rest[:keyLength]), value: bytes.Clone(rest[keyLength:])}, len(b), false, true
}

// scan reads all sound records of b, in order. lost is how many bytes in
// between, or at the end without looking like an unfinished record, are not
// part of one; torn how many at the end do.
func scan(b []byte, each func(record)) (lost, torn int) {
	pos, bad := 0, -1
	unfinished := false
	for pos < len(b) {
		r, size, short, ok := parse(b[pos:])
		if ok {
			if bad >= 0 {
				lost += pos - bad
				bad = -1
			}
			each(r)
			pos += size
			continue
		}
		if bad < 0 {
			bad, unfinished = pos, short
		}
		// Go on at the next mark.
		next := bytes.Index(b[pos+1:], mark[:])
		if next < 0 {
			break
		}
		pos += 1 + next
	}
	if bad >= 0 {
		if unfinished {
			return lost, len(b) - bad
		}
		lost += len(b) - bad
	}
	return lost, 0
}
