package metrics

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestSocketsAreCountedToACap(t *testing.T) {
	dir := t.TempDir()
	for i, to := range []string{"socket:[1]", "pipe:[2]", "socket:[3]", "/dev/null", "anon_inode:[eventpoll]", "/socket:[4]"} {
		if err := os.Symlink(to, filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	left := 7
	if n, err := sysSockets(dir, &left); n != 2 || err != nil || left != 1 {
		t.Errorf("%d sockets, %v, %d left; want 2 and 1", n, err, left)
	}
	if n, err := sysSockets(dir, &left); n != 0 || err != ErrTooMany {
		t.Errorf("%d sockets, %v; want ErrTooMany", n, err)
	}
	if _, err := sysSockets(dir+"/none", &left); err != ErrAbsent {
		t.Errorf("%v; want ErrAbsent", err)
	}
}
