package metrics_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nodekit/nodekit/metrics"
)

// staticTargets meters one container and nothing else.
type staticTargets struct{}

func (staticTargets) Targets(context.Context) ([]metrics.Target, error) {
	return []metrics.Target{{
		Cgroup: "/kubepods/pod1/c1", Namespace: "default", Pod: "web", PodUID: "u1", Container: "app", ID: "c1",
	}}, nil
}

func Example() {
	meter, err := metrics.New(metrics.Config{
		Targets: staticTargets{},
		// A recorded machine. Leave these three out to meter the one at hand.
		CgroupRoot: "testdata/v2/cgroup", ProcRoot: "testdata/v2/proc", SysRoot: "testdata/v2/sys",
	})
	if err != nil {
		log.Fatal(err)
	}
	samples, err := meter.Samples(context.Background(), 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range samples {
		cpu, _ := s.Get(metrics.CPUUsage)
		memory, _ := s.Get(metrics.MemoryWorkingSet)
		fmt.Println(s.Target.Cgroup, time.Duration(cpu), memory>>20, "MiB")
		for _, gap := range s.Gaps {
			fmt.Println("  not known:", gap.File, gap.Err)
		}
	}
	if err := meter.WriteResource(context.Background(), discardTimes{}); err != nil {
		log.Fatal(err)
	}
	// Output:
	// / 16m27.654321s 4495 MiB
	// /kubepods/pod1/c1 1.500001s 48 MiB
	// # HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
}

// discardTimes prints the first line only, for the others bear the time of
// the example's run.
type discardTimes struct{}

func (discardTimes) Write(text []byte) (int, error) {
	for i, c := range text {
		if c == '\n' {
			_, err := os.Stdout.Write(text[:i+1])
			return len(text), err
		}
	}
	return len(text), nil
}
