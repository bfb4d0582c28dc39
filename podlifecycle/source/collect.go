package source

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodekit/nodekit/podlifecycle/manifest"
)

// collector makes a Set of objects from several places, without what is twice in
// it: the first one counts.
type collector struct {
	set  Set
	seen map[string]string // key of an object: its place
}

// add takes the objects of one place.
func (c *collector) add(place string, objects manifest.Objects) {
	if c.seen == nil {
		c.seen = map[string]string{}
	}
	c.set.Pods = addTo(c, place, "Pod", c.set.Pods, objects.Pods)
	c.set.ConfigMaps = addTo(c, place, "ConfigMap", c.set.ConfigMaps, objects.ConfigMaps)
	c.set.Secrets = addTo(c, place, "Secret", c.set.Secrets, objects.Secrets)
	c.set.Services = addTo(c, place, "Service", c.set.Services, objects.Services)
	c.set.EndpointSlices = addTo(c, place, "EndpointSlice", c.set.EndpointSlices, objects.EndpointSlices)
}

// addTo appends what has not been seen, and tells of the rest.
func addTo[T metav1.Object](c *collector, place, kind string, list, more []T) []T {
	for _, object := range more {
		keys := map[string]string{"metadata.name": kind + " " + object.GetNamespace() + "/" + object.GetName()}
		if kind == "Pod" {
			keys["metadata.uid"] = "UID " + string(object.GetUID())
		}
		twice := false
		for _, path := range []string{"metadata.name", "metadata.uid"} {
			if by, ok := c.seen[keys[path]]; ok && keys[path] != "" && !twice {
				twice = true
				c.set.Problems = append(c.set.Problems, manifest.Problem{File: place, Kind: kind, Namespace: object.GetNamespace(),
					Name: object.GetName(), Field: path, Err: fmt.Errorf("%s is in %s already: %w", keys[path], by, ErrDuplicate)})
			}
		}
		if twice {
			continue
		}
		for _, key := range keys {
			c.seen[key] = place
		}
		list = append(list, object)
	}
	return list
}
