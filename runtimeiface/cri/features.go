package cri

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit/nodekit/runtimeiface"
)

// ability asks whether a handler has what a field needs. A runtime that tells of
// no handlers, as cri-dockerd v0.4.3, has none of it.
func (r *Runtime) ability(ctx context.Context, handler, field string, has func(*api.RuntimeHandlerFeatures) bool) error {
	s, err := ask(ctx, r, r.rs.Status, &api.StatusRequest{})
	if err != nil {
		return translate(ctx, err, "features of the runtime")
	}
	for _, h := range s.RuntimeHandlers {
		if h.Name == handler && h.Features != nil && has(h.Features) {
			return nil
		}
	}
	return notSupported(field, "is nothing that the runtime's handler can do: \""+handler+"\"")
}

// strictGroups asks whether groups of the image can be left out.
func (r *Runtime) strictGroups(ctx context.Context) error {
	s, err := ask(ctx, r, r.rs.Status, &api.StatusRequest{})
	if err != nil {
		return translate(ctx, err, "features of the runtime")
	}
	if !s.Features.GetSupplementalGroupsPolicy() {
		return notSupported("Security.StrictGroups", "is nothing that the runtime can do")
	}
	return nil
}

// mountOptions asks whether binds may have options beside those the CRI names.
func (r *Runtime) mountOptions(ctx context.Context, field string) error {
	s, err := ask(ctx, r, r.rs.Status, &api.StatusRequest{})
	if err != nil {
		return translate(ctx, err, "features of the runtime")
	}
	if !s.Features.GetMountOptions() {
		return notSupported(field, "have one that the runtime does not take")
	}
	return nil
}

// userNamespace puts ranges of IDs into the CRI's words. Runtimes take one.
func userNamespace(u *runtimeiface.UserNamespace) (*api.UserNamespace, error) {
	if u == nil {
		return nil, nil
	}
	out := &api.UserNamespace{Mode: api.NamespaceMode_POD}
	for _, side := range []struct {
		field string
		from  []specs.LinuxIDMapping
		to    *[]*api.IDMapping
	}{{"UserNamespace.UIDs", u.UIDs, &out.Uids}, {"UserNamespace.GIDs", u.GIDs, &out.Gids}} {
		if len(side.from) != 1 {
			return nil, notSupported(side.field, "are more than one range, of which the CRI's runtimes take one")
		}
		m := side.from[0]
		*side.to = []*api.IDMapping{{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Size}}
	}
	if u.UIDs[0].Size != u.GIDs[0].Size { // containerd v2.4 shifts the owners of an image by one size for both
		return nil, notSupported("UserNamespace.GIDs", "have another size than UIDs")
	}
	return out, nil
}
