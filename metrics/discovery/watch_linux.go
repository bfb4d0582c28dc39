package discovery

import (
	"context"
	"io"
	"sync"
)

// watch begins to hear of changes. The channel says when all must be read
// again, true if events were lost; it is nil where nothing tells. stop ends it
// and returns when all has ended.
func (d *Discovery) watch(ctx context.Context) (<-chan bool, func()) {
	ctx, cancel := context.WithCancel(ctx)
	for method := d.cfg.First; method < Rescan; method++ {
		var watchers []watcher
		var err error
		if method == Fanotify {
			watchers, err = d.fanotify()
		} else {
			watchers, err = d.inotify(ctx)
		}
		if err != nil {
			for _, w := range watchers {
				_ = w.Close()
			}
			d.cfg.Logger.Info("method is not to be had", "method", method.String(), "reason", err.Error())
			continue
		}
		d.mu.Lock()
		d.stats.Method = method
		d.mu.Unlock()
		d.cfg.Logger.Info("listening for cgroups", "method", method.String())
		again := make(chan bool, 1)
		var running sync.WaitGroup
		for _, w := range watchers {
			running.Go(func() { d.listen(ctx, w, again) })
		}
		return again, func() { cancel(); running.Wait() }
	}
	d.cfg.Logger.Info("listening for cgroups", "method", Rescan.String())
	return nil, cancel
}

// watcher hears from the kernel.
type watcher interface {
	// next blocks until there is something to tell; lost says that there was
	// more than the kernel kept.
	next() (events []event, lost bool, err error)
	// interrupt makes next fail soon, from any goroutine.
	interrupt()
	io.Closer
}

// listen takes what w hears until ctx ends.
func (d *Discovery) listen(ctx context.Context, w watcher, again chan<- bool) {
	defer func() { _ = w.Close() }()
	defer context.AfterFunc(ctx, w.interrupt)()
	for {
		events, lost, err := w.next()
		if len(events) > 0 {
			d.take(events)
		}
		if lost {
			select {
			case again <- true:
			default: // it will be read anyway
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				d.cfg.Logger.Error(err, "events have ended, the tree is read instead")
			}
			return
		}
	}
}
