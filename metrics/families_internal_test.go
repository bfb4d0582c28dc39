package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryFamilyIsInARecordedScrape: each family is exposed from recorded files,
// or a test that knows how stands here.
func TestEveryFamilyIsInARecordedScrape(t *testing.T) {
	elsewhere := map[string]string{
		"container_fs_usage_bytes":  "has the node's file systems, each device once",
		"container_fs_limit_bytes":  "the same",
		"container_fs_inodes_free":  "the same",
		"container_fs_inodes_total": "the same",
		"container_sockets":         "count sockets among them where that is asked for, exactly",
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatal("no recorded scrapes", err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteByte('\n')
		all.Write(text)
	}
	for _, f := range append(cadvisorFamilies[:len(cadvisorFamilies):len(cadvisorFamilies)], resourceFamilies...) {
		recorded := strings.Contains(all.String(), "\n"+f.name+"{") || strings.Contains(all.String(), "\n"+f.name+" ")
		if _, known := elsewhere[f.name]; recorded == known {
			t.Errorf("%s: recorded %t, tested elsewhere %t: want one of them", f.name, recorded, known)
		}
	}
}
