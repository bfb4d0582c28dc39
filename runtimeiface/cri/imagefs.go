package cri

import (
	"context"
	"fmt"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ImageFilesystem tells of the first file system that the runtime names: it is
// that of its default snapshotter. The runtime counts from time to time, so what
// was just pulled may lack. Size and room are those seen from this process, and 0
// if it does not see the path.
func (r *Runtime) ImageFilesystem(ctx context.Context) (runtimeiface.Filesystem, error) {
	response, err := ask(ctx, r, r.is.ImageFsInfo, &api.ImageFsInfoRequest{})
	if err != nil {
		return runtimeiface.Filesystem{}, translate(ctx, err, "image file system")
	}
	if len(response.ImageFilesystems) == 0 {
		return runtimeiface.Filesystem{}, fmt.Errorf("image file system: %w: the runtime tells of none", runtimeiface.ErrNotSupported)
	}
	told := response.ImageFilesystems[0]
	fs := runtimeiface.Filesystem{
		Path:      told.FsId.GetMountpoint(),
		UsedBytes: int64(told.UsedBytes.GetValue()), UsedInodes: int64(told.InodesUsed.GetValue()),
	}
	measure(&fs)
	return fs, nil
}

// ContainerFilesystem tells what a container has written into its own root file
// system, in UsedBytes and UsedInodes; the rest is zero. The runtime counts from
// time to time, containerd v2.4 every 10 s. ErrNotFound; ErrNotSupported: it does
// not tell, or has not counted yet.
func (r *Runtime) ContainerFilesystem(ctx context.Context, id string) (runtimeiface.Filesystem, error) {
	response, err := ask(ctx, r, r.rs.ContainerStats, &api.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return runtimeiface.Filesystem{}, translate(ctx, err, "figures of container %q", id)
	}
	layer := response.GetStats().GetWritableLayer()
	if layer.GetUsedBytes() == nil {
		return runtimeiface.Filesystem{}, fmt.Errorf("writable layer of container %q: %w", id, runtimeiface.ErrNotSupported)
	}
	return runtimeiface.Filesystem{UsedBytes: int64(layer.UsedBytes.GetValue()), UsedInodes: int64(layer.GetInodesUsed().GetValue())}, nil
}
