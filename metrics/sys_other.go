//go:build !linux

package metrics

const supported = false

type status struct{}

const atCwd = int32(0)

func sysOpen(int32, []byte) (int32, error) { return -1, ErrNotSupported }

func sysOpenDir(int32, []byte) (int32, error) { return -1, ErrNotSupported }

func sysRead(int32, []byte, int64) (int, error) { return 0, ErrNotSupported }

func sysClose(int32) {}

func sysInode([]byte, *status) (uint64, error) { return 0, ErrNotSupported }

func sysDir(int32, *status) (uint64, uint32, error) { return 0, 0, ErrNotSupported }

func sysSize([]byte, *status) (uint64, error) { return 0, ErrNotSupported }

func sysStatfs(*Filesystem) error { return ErrNotSupported }

func sysSockets(string, *int) (uint64, error) { return 0, ErrNotSupported }
