package oci

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nodekit/nodekit/runtimeiface"
)

// Internal: pure parts that the package does not show.

func resourcesOf(t *testing.T, text string) specs.LinuxResources {
	t.Helper()
	var r specs.LinuxResources
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestResourcesAreMerged(t *testing.T) {
	for _, test := range []struct{ old, change, want string }{
		{`{}`, `{"memory":{"limit":5}}`, `{"memory":{"limit":5}}`},
		{`{"memory":{"limit":5,"swap":9},"cpu":{"cpus":"0"}}`, `{"memory":{"limit":7},"cpu":{"shares":2}}`, `{"memory":{"limit":7,"swap":9},"cpu":{"cpus":"0","shares":2}}`},
		{`{"cpu":{"quota":5000}}`, `{"cpu":{"quota":0}}`, `{"cpu":{"quota":5000}}`},
		{`{"cpu":{"quota":5000}}`, `{"cpu":{"quota":-1}}`, `{"cpu":{"quota":-1}}`},
		{`{"pids":{"limit":5}}`, `{}`, `{"pids":{"limit":5}}`},
	} {
		old := resourcesOf(t, test.old)
		if got := mergeResources(&old, resourcesOf(t, test.change)); !reflect.DeepEqual(got, resourcesOf(t, test.want)) {
			text, _ := json.Marshal(got)
			t.Errorf("%s and %s became %s", test.old, test.change, text)
		}
		if !reflect.DeepEqual(old, resourcesOf(t, test.old)) {
			t.Errorf("%s was changed", test.old)
		}
	}
	if got := mergeResources(nil, resourcesOf(t, `{"pids":{"limit":5}}`)); *got.Pids.Limit != 5 {
		t.Errorf("of nothing became %+v", got)
	}
}

func TestUpdatesAreChecked(t *testing.T) {
	for field, test := range map[string]struct {
		old, change string
		err         error
	}{
		"":                        {`{}`, `{"memory":{"limit":1048576,"swap":-1},"cpu":{"quota":-1,"period":100000,"shares":2,"cpus":"0-2,5"},"pids":{"limit":-1}}`, nil},
		"Devices":                 {`{}`, `{"devices":[{"allow":true}]}`, runtimeiface.ErrInvalid},
		"HugepageLimits":          {`{}`, `{"hugepageLimits":[{"pageSize":"2MB"}]}`, runtimeiface.ErrNotSupported},
		"Network":                 {`{}`, `{"network":{}}`, runtimeiface.ErrNotSupported},
		"Rdma":                    {`{}`, `{"rdma":{"x":{}}}`, runtimeiface.ErrNotSupported},
		"Memory.Swappiness":       {`{}`, `{"memory":{"swappiness":1}}`, runtimeiface.ErrNotSupported},
		"Memory.Limit":            {`{}`, `{"memory":{"limit":-2}}`, runtimeiface.ErrInvalid},
		"Memory.Swap":             {`{"memory":{"limit":4096}}`, `{"memory":{"swap":1024}}`, runtimeiface.ErrInvalid},
		"CPU.Quota":               {`{}`, `{"cpu":{"quota":999}}`, runtimeiface.ErrInvalid},
		"CPU.Period":              {`{}`, `{"cpu":{"period":5}}`, runtimeiface.ErrInvalid},
		"CPU.Shares":              {`{}`, `{"cpu":{"shares":300000}}`, runtimeiface.ErrInvalid},
		"CPU.Cpus":                {`{}`, `{"cpu":{"cpus":"0;1"}}`, runtimeiface.ErrInvalid},
		"CPU.Mems":                {`{}`, `{"cpu":{"mems":"-"}}`, runtimeiface.ErrInvalid},
		"Pids.Limit":              {`{}`, `{"pids":{"limit":-7}}`, runtimeiface.ErrInvalid},
		"BlockIO.Weight":          {`{}`, `{"blockIO":{"weight":5}}`, runtimeiface.ErrInvalid},
		"Unified[../memory.max]":  {`{}`, `{"unified":{"../memory.max":"1"}}`, runtimeiface.ErrInvalid},
		"Unified[cgroup procs\n]": {`{}`, `{"unified":{"cgroup procs\n":"1"}}`, runtimeiface.ErrInvalid},
	} {
		old, change := resourcesOf(t, test.old), resourcesOf(t, test.change)
		err := checkUpdate(change, mergeResources(&old, change))
		if !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", test.change, err)
		}
	}
}
