// Package logind learns from systemd-logind that the node is about to shut down,
// and holds that up until the pods have ended.
//
//	watch, err := logind.New(logind.Config{
//		Delay:    shutdown.Total(periods),
//		Shutdown: func(ctx context.Context) error { return manager.Shutdown(ctx, periods) },
//		Resume:   manager.Resume,
//	})
//	err = watch.Run(ctx) // until ctx ends
//
// It takes an inhibitor lock of mode "delay" over the system's D-Bus, hears the
// signal PrepareForShutdown, and lets go of the lock once Shutdown has returned. A
// shutdown that was called off ends Shutdown's context and calls Resume. When the bus
// or logind goes away it tries again every second.
//
// logind waits no longer than its InhibitDelayMaxSec, 5 s unless configured. With
// ConfDir the package raises that to Delay by a drop-in, as the kubelet does; without
// it, too short a delay is told to the log and the pods get what there is.
//
// Source: Kubernetes v1.37.0 pkg/kubelet/nodeshutdown, and org.freedesktop.login1(5)
// of systemd 257.
//
// # Traps
//
//   - Any user may send signals on the system bus: only logind's own are heard.
//   - Begin with Run before the first set is given to the manager: a node that is
//     about to shut down must not start pods.
package logind
