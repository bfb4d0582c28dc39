//go:build !linux

package cri

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func devices(list []specs.LinuxDevice) ([]*api.Device, error) {
	if len(list) > 0 {
		return nil, notSupported("Devices", "are for linux")
	}
	return nil, nil
}
