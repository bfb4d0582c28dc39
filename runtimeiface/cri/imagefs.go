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
