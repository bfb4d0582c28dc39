package dockerconfig

import (
	"path"
	"strings"
)

// Names of Docker's registry.
const (
	dockerHost  = "docker.io"
	dockerIndex = "index.docker.io"
)

// Match tells whether a key, such as "*.example:5000/team", fits a repository of a
// host: the port is the same, the host has as many labels, each of which may be a
// pattern of path.Match, and the path begins with the key's. So has
// URLsMatch of Kubernetes v1.37.0 pkg/credentialprovider.
func Match(key, host, repo string) bool {
	keyHost, keyPath := cutKey(key)
	keyName, keyPort := cutPort(keyHost)
	name, port := cutPort(host)
	if keyPort != port || !strings.HasPrefix("/"+repo, keyPath) {
		return false
	}
	patterns, labels := strings.Split(keyName, "."), strings.Split(name, ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i, pattern := range patterns {
		if pattern == labels[i] { // [::1] is no pattern
			continue
		}
		if ok, err := path.Match(pattern, labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Split gives the host and the repository that an image reference names, with
// Docker's defaults: "web:1" is library/web of docker.io. It checks nothing.
func Split(ref string) (host, repo string) {
	ref, _, _ = strings.Cut(ref, "@")
	if slash, colon := strings.LastIndexByte(ref, '/'), strings.LastIndexByte(ref, ':'); colon > slash {
		ref = ref[:colon]
	}
	host, repo, ok := strings.Cut(ref, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		host, repo = dockerHost, ref
	}
	if host == dockerIndex {
		host = dockerHost
	}
	if host == dockerHost && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	return host, repo
}

// fits knows both names of Docker's registry.
func fits(key, host, repo string) bool {
	if host == dockerHost || host == dockerIndex {
		return Match(key, dockerHost, repo) || Match(key, dockerIndex, repo)
	}
	return Match(key, host, repo)
}

func bareKey(key string) string {
	host, path := cutKey(key)
	return host + path
}

// cutKey splits "https://index.docker.io/v1/" and "host:5000/team" into host
// and path. The roots of the registry API, /v1/ and /v2/, are no path.
func cutKey(key string) (host, path string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, ok := strings.Cut(key, "/")
	if !ok {
		return host, ""
	}
	path = "/" + path
	if strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v2/") {
		path = path[len("/v1"):]
	}
	if path == "/" {
		path = ""
	}
	return host, path
}

// cutPort splits "host:5000" and "[::1]:5000", and leaves "::1" alone.
func cutPort(host string) (name, port string) {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.IndexByte(host, ':') != i && !strings.HasPrefix(host, "[") || strings.HasSuffix(host, "]") {
		return host, ""
	}
	return host[:i], host[i+1:]
}
