package runtimeiface

import "context"

// Images brings images to the node.
type Images interface {
	// PullImage brings the image that spec names, or finds that it is there
	// whole, and gives it. Progress, which may be nil, is called from one
	// goroutine at a time and not after the return. Of an index the image for this
	// platform is taken. ErrInvalidImageName, ErrNotFound (the registry has no such
	// image, or none for this platform), ErrUnauthorized and ErrUnavailable are
	// told apart. Content that is not what its digest says, or of a kind that is
	// not known, such as manifests of schema 1, is an error too. A failed or killed
	// pull is never an image.
	PullImage(ctx context.Context, spec ImageSpec, progress func(PullProgress)) (Image, error)
	// ImageStatus finds an image by ID, tag or digest, or gives ErrNotFound.
	ImageStatus(ctx context.Context, ref string) (Image, error)
	// ListImages gives copies, ordered by ID.
	ListImages(ctx context.Context) ([]Image, error)
	// RemoveImage forgets an image by ID, or one name of it by tag or digest,
	// and its content with its last name. ErrInUse: a container stands on it.
	// Unknown: nil.
	RemoveImage(ctx context.Context, ref string) error
	// ImageFilesystem tells of the file system that images lie on. Its figures may
	// be some seconds old.
	ImageFilesystem(ctx context.Context) (Filesystem, error)
}

// Filesystem is how full a file system is.
type Filesystem struct {
	// Path is the directory of the images, or a mount point.
	Path string
	// UsedBytes and UsedInodes are what images take. Shared layers count once.
	UsedBytes, UsedInodes int64
	// Of the whole file system; 0 if it cannot be told.
	CapacityBytes, AvailableBytes int64
	Inodes, AvailableInodes       int64
}

// ImageSpec says what to pull.
type ImageSpec struct {
	// Ref is a reference such as registry.example/app:1.2 or app@sha256:...
	Ref string
	// Auth may be nil.
	Auth *Auth
}

// Auth is a registry credential. It is never logged.
type Auth struct {
	Username, Password string
	// IdentityToken is exchanged for an access token.
	IdentityToken string
	// RegistryToken is a bearer token; it excludes the others.
	RegistryToken string
}

// PullProgress is where a pull stands.
type PullProgress struct {
	Ref string
	// Phase is "resolving", "downloading", "unpacking" or "done".
	Phase string
	// Done and Total bytes, compressed; Total is 0 until the manifest is read.
	Done, Total int64
	// LayersDone of Layers are ready to be mounted.
	LayersDone, Layers int
}

// Image is an image on the node.
type Image struct {
	// ID is the digest of the image's configuration, "sha256:...".
	ID string
	// Tags and Digests are full references, sorted.
	Tags, Digests []string
	// Size of the content in bytes, shared layers counted.
	Size int64
	// User as the image's configuration says: "", "1000", "app", "1000:1000".
	User string
	// Pinned images are not for the caller to remove.
	Pinned bool
}
