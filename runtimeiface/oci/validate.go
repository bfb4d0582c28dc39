package oci

import "github.com/nodekit/nodekit/runtimeiface"

// checkSandbox names bad fields, and those that this backend cannot honour.
func checkSandbox(spec runtimeiface.SandboxSpec, cfg Config) error {
	// Limits first: what is within them can be looked at, and shown.
	if err := sandboxLimits(spec); err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	if _, known := cfg.RuntimeHandlers[spec.RuntimeHandler]; !known {
		return notSupported("RuntimeHandler", "is not configured: "+spec.RuntimeHandler)
	}
	if spec.CgroupParent != "" {
		if err := checkCgroup(cfg.CgroupDriver, spec.CgroupParent); err != nil {
			return invalid("CgroupParent", spec.CgroupParent+" "+err.Error())
		}
	}
	return nil
}

// checkContainer names bad fields, and those that this backend cannot honour.
func checkContainer(pod runtimeiface.SandboxSpec, spec runtimeiface.ContainerSpec) error {
	if err := containerLimits(spec); err != nil {
		return err
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	switch {
	case spec.LogPath != "" && pod.LogDirectory == "":
		return invalid("LogPath", "wants the sandbox's LogDirectory")
	case spec.Security.Privileged && !pod.Privileged:
		return invalid("Security.Privileged", "wants a sandbox that is Privileged")
	}
	if pod.UserNamespace != nil && spec.PID == runtimeiface.NamespaceHost {
		return invalid("PID", "cannot be host: the sandbox has a UserNamespace")
	}
	return nil
}
