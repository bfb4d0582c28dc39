package eviction

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a node can be short of.
type Signal string

// The signals: what is left of memory in bytes, of the file systems of volumes
// and logs (nodefs) and of images (imagefs) in bytes and inodes, of processes.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFSAvailable  Signal = "nodefs.available"
	NodeFSInodes     Signal = "nodefs.inodesFree"
	ImageFSAvailable Signal = "imagefs.available"
	ImageFSInodes    Signal = "imagefs.inodesFree"
	PIDAvailable     Signal = "pid.available"
)

// Resources as messages name them.
const (
	resourceMemory  = "memory"
	resourceStorage = "ephemeral-storage"
	resourceInodes  = "inodes"
	resourcePIDs    = "pids"
)

type facts struct {
	resource  string
	condition corev1.NodeConditionType
}

var signals = map[Signal]facts{
	MemoryAvailable:  {resourceMemory, corev1.NodeMemoryPressure},
	NodeFSAvailable:  {resourceStorage, corev1.NodeDiskPressure},
	NodeFSInodes:     {resourceInodes, corev1.NodeDiskPressure},
	ImageFSAvailable: {resourceStorage, corev1.NodeDiskPressure},
	ImageFSInodes:    {resourceInodes, corev1.NodeDiskPressure},
	PIDAvailable:     {resourcePIDs, corev1.NodePIDPressure},
}

// Disk tells whether it is a signal of a file system.
func (s Signal) Disk() bool { return signals[s].condition == corev1.NodeDiskPressure }

// Value is an amount, or a part of what there is in all.
type Value struct {
	// Amount in bytes, inodes or processes.
	Amount int64
	// Part of the capacity, 0 to 1; counts if Amount is 0.
	Part float32
}

// Of gives the amount, given the capacity.
func (v Value) Of(capacity int64) int64 {
	if v.Amount != 0 {
		return v.Amount
	}
	return int64(float64(capacity) * float64(v.Part))
}

// Threshold is met when less than Below is left.
type Threshold struct {
	Signal Signal
	Below  Value
	// Grace is how long it must have been met before a pod is evicted; 0 makes it
	// a hard threshold.
	Grace time.Duration
	// Reclaim is how much more than Below must be left, once it has been met,
	// until it is met no more.
	Reclaim Value
}

// Defaults gives the kubelet's hard thresholds: memory.available<100Mi,
// nodefs.available<10%, imagefs.available<15%, and 5% of the inodes of both.
// Source: Kubernetes v1.37.0 pkg/kubelet/eviction/defaults_linux.go.
func Defaults() []Threshold {
	return []Threshold{
		{Signal: MemoryAvailable, Below: Value{Amount: 100 << 20}},
		{Signal: NodeFSAvailable, Below: Value{Part: 0.1}},
		{Signal: NodeFSInodes, Below: Value{Part: 0.05}},
		{Signal: ImageFSAvailable, Below: Value{Part: 0.15}},
		{Signal: ImageFSInodes, Below: Value{Part: 0.05}},
	}
}

// Parse reads thresholds as the kubelet's configuration has them, by signal:
// evictionHard and evictionSoft ("100Mi", "10%"), evictionSoftGracePeriod
// ("1m30s"), evictionMinimumReclaim. 0% and 100% are none. The result is sorted
// by signal, hard ones first. The error joins all that is wrong.
func Parse(hard, soft, grace, reclaim map[string]string) ([]Threshold, error) {
	var errs []error
	fault := func(of, signal string, err error) {
		errs = append(errs, fmt.Errorf("%s[%s]: %w", of, signal, err))
	}
	var out []Threshold
	add := func(of string, texts map[string]string, finish func(signal string, t *Threshold) error) {
		for _, signal := range slices.Sorted(maps.Keys(texts)) {
			if texts[signal] == "0%" || texts[signal] == "100%" {
				continue
			}
			t := Threshold{Signal: Signal(signal)}
			var err error
			if _, known := signals[t.Signal]; !known {
				err = errSignal
			} else {
				t.Below, err = parseValue(texts[signal], false)
			}
			if err == nil {
				err = finish(signal, &t)
			}
			if err != nil {
				fault(of, signal, err)
				continue
			}
			out = append(out, t)
		}
	}
	least := map[Signal]Value{}
	for signal, text := range reclaim {
		value, err := parseValue(text, true)
		if _, known := signals[Signal(signal)]; !known {
			err = errSignal
		}
		if err != nil {
			fault("minimum reclaim", signal, err)
		}
		least[Signal(signal)] = value
	}
	for signal := range grace {
		if _, known := signals[Signal(signal)]; !known {
			fault("soft grace period", signal, errSignal)
		}
	}
	add("hard", hard, func(_ string, t *Threshold) error {
		t.Reclaim = least[t.Signal]
		return nil
	})
	add("soft", soft, func(signal string, t *Threshold) (err error) {
		t.Reclaim = least[t.Signal]
		if grace[signal] == "" {
			return errors.New("a soft threshold needs a grace period")
		}
		if t.Grace, err = time.ParseDuration(grace[signal]); err == nil && t.Grace <= 0 {
			err = fmt.Errorf("grace period %v is not positive", t.Grace)
		}
		return err
	})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("eviction thresholds: %w", err)
	}
	return out, nil
}

var errSignal = errors.New("unknown signal")

func parseValue(text string, mayBeZero bool) (Value, error) {
	if number, percent := strings.CutSuffix(text, "%"); percent {
		part, err := strconv.ParseFloat(number, 32)
		if err != nil {
			return Value{}, fmt.Errorf("%q is no percentage", text)
		}
		v := Value{Part: float32(part) / 100}
		if !(v.Part > 0 && v.Part <= 1) {
			return Value{}, fmt.Errorf("%q is not between 0%% and 100%%", text)
		}
		return v, nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return Value{}, fmt.Errorf("%q: %w", text, err)
	}
	if quantity.Sign() < 0 || quantity.IsZero() && !mayBeZero {
		return Value{}, fmt.Errorf("%q is not positive", text)
	}
	return Value{Amount: quantity.Value()}, nil
}
