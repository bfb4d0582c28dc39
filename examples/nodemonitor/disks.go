package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodekit/nodekit/metrics"
)

// written is what one container has on disk.
type written struct{ layer, logs metrics.DiskUse }

// weigh asks the runtime each interval what each container has written, one
// after another: what it costs, it costs the runtime.
func (p *pods) weigh(ctx context.Context, interval time.Duration) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.ready:
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		p.weighOnce(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *pods) weighOnce(ctx context.Context) {
	p.mu.Lock()
	logs := p.logs
	p.mu.Unlock()
	all := map[string]written{}
	for id, log := range logs {
		if ctx.Err() != nil {
			return
		}
		var w written
		// A runtime that does not tell leaves its layer unknown.
		if layer, err := p.runtime.ContainerFilesystem(ctx, id); err == nil {
			w.layer = metrics.DiskUse{Bytes: uint64(max(0, layer.UsedBytes)), Inodes: uint64(max(0, layer.UsedInodes)), At: time.Now()}
		} else {
			p.logger.V(4).Info("writable layer is not known", "containerID", id, "error", err.Error())
		}
		if used, err := logsAt(log); err == nil {
			w.logs = used
		}
		all[id] = w
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disks = all
}

// onDisk gives what was found last.
func (p *pods) onDisk(t metrics.Target) (layer, logs metrics.DiskUse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.disks[t.ID]
	return w.layer, w.logs
}

// logsAt adds up a log and what was rotated away beside it, whose names begin
// with its own.
func logsAt(log string) (used metrics.DiskUse, err error) {
	if log == "" {
		return used, fs.ErrNotExist
	}
	entries, err := os.ReadDir(filepath.Dir(log))
	if err != nil {
		return used, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(log)) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // rotated away meanwhile
		}
		used.Bytes += uint64(info.Size())
		used.Inodes++
	}
	used.At = time.Now()
	return used, nil
}
