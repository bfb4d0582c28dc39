package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nodekit/nodekit/runtimeiface/oci/image"
)

// A pull's error says what to do about it.
func Example() {
	root, err := os.MkdirTemp("", "images-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)
	store, err := image.Open(image.Config{Root: root})
	if errors.Is(err, image.ErrNotSupported) {
		return // no Linux
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	_, err = store.Pull(context.Background(), "Web:1", image.PullOptions{
		Progress: func(p image.Progress) { fmt.Printf("%s %d of %d bytes\n", p.Phase, p.Done, p.Total) },
	})
	switch {
	case errors.Is(err, image.ErrInvalidName):
		fmt.Println("fix the manifest:", err)
	case errors.Is(err, image.ErrUnavailable):
		fmt.Println("try again later:", err)
	}
	fmt.Println(len(store.List()), "images")
	// Output:
	// fix the manifest: pull image "Web:1": invalid image name: "Web:1": could not parse reference: Web:1
	// 0 images
}
