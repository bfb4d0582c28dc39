// Package machine tells what the node is made of, as cAdvisor's MachineInfo
// (github.com/google/cadvisor/lib/model), which /spec serves, and as its
// machine_ metric families.
//
//	m, err := machine.New(machine.Config{})
//	if err != nil {
//		return err
//	}
//	info, err := m.MachineInfo(ctx)
//
// MachineInfo reads /proc and /sys anew each time, some hundred small files:
// keep the result, it changes with hot-plugged hardware only. What the machine does not
// tell is empty; memory_by_type and nvm, which need vendor tools, always are,
// and so are cloud provider and instance, which the agent's caller knows.
package machine
