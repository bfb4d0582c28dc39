package source

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// ReaderConfig of a Reader.
type ReaderConfig struct {
	// Reader gives manifests until its end, such as os.Stdin; required. If it is
	// an io.Closer, it is closed when ctx ends before it does.
	Reader io.Reader
	// Name is where the pods are from, for problems and their UIDs; "" means
	// "stdin".
	Name string
	// NodeName as in Config.
	NodeName string
	// VolumePlugins as in Config.
	VolumePlugins []string
}

// Reader reads manifests once, to the end of a stream. Run may be called once.
type Reader struct {
	config ReaderConfig
	place  place
}

var _ Source = (*Reader)(nil)

// NewReader checks config; it reads nothing.
func NewReader(config ReaderConfig) (*Reader, error) {
	var errs []error
	if config.Reader == nil {
		errs = append(errs, errors.New("a Reader is required"))
	}
	errs = append(errs, checkNode(config.NodeName)...)
	if len(errs) > 0 {
		return nil, fmt.Errorf("source config: %w", errors.Join(errs...))
	}
	if config.Name == "" {
		config.Name = "stdin"
	}
	return &Reader{config, place{origin: origin{"stdin", config.NodeName, config.VolumePlugins}, name: config.Name}}, nil
}

// Run calls update once, when the stream has ended, and waits for ctx. A stream
// that breaks is told as a problem, and nothing of it counts: half of what is
// wanted is not what is wanted. A Read that does not return for Close is left
// behind when ctx ends.
func (r *Reader) Run(ctx context.Context, update func(Set)) error {
	type read struct {
		data []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		// One byte more than Decode takes, for it to refuse.
		data, err := io.ReadAll(io.LimitReader(r.config.Reader, manifest.MaxSize+1))
		done <- read{data, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			r.place.fail(fmt.Errorf("read: %w", got.err))
		} else {
			r.place.take(got.data)
		}
		update(r.place.set())
		<-ctx.Done()
	case <-ctx.Done():
		if closer, ok := r.config.Reader.(io.Closer); ok {
			_ = closer.Close()
		}
	}
	return nil
}

// ChannelConfig of a Channel.
type ChannelConfig struct {
	// Objects gives the whole of what is wanted each time, in place of what was
	// before; required. They are the source's then: send copies. When it is
	// closed, the last ones stay.
	Objects <-chan manifest.Objects
	// Name is where the pods are from, for problems and for the UIDs of those
	// that have none; "" means "channel".
	Name string
	// NodeName as in Config.
	NodeName string
	// VolumePlugins as in Config.
	VolumePlugins []string
}

// Channel takes objects from the program itself. They are defaulted and checked
// as those of files. Run may be called once.
type Channel struct {
	config ChannelConfig
	place  place
}

var _ Source = (*Channel)(nil)

// NewChannel checks config.
func NewChannel(config ChannelConfig) (*Channel, error) {
	var errs []error
	if config.Objects == nil {
		errs = append(errs, errors.New("a channel of Objects is required"))
	}
	errs = append(errs, checkNode(config.NodeName)...)
	if len(errs) > 0 {
		return nil, fmt.Errorf("source config: %w", errors.Join(errs...))
	}
	if config.Name == "" {
		config.Name = "channel"
	}
	return &Channel{config, place{origin: origin{"channel", config.NodeName, config.VolumePlugins}, name: config.Name}}, nil
}

// Run calls update for each value of the channel until ctx ends.
func (c *Channel) Run(ctx context.Context, update func(Set)) error {
	objects := c.config.Objects
	for {
		select {
		case <-ctx.Done():
			return nil
		case next, ok := <-objects:
			if !ok {
				objects = nil
				continue
			}
			for _, pod := range next.Pods {
				if pod.Namespace == "" {
					pod.Namespace = "default"
				}
			}
			c.place.replace(next, nil)
			update(c.place.set())
		}
	}
}
