// Package testimage makes the images that runtimetest's cases run, and serves
// them from a registry on loopback.
//
//	images := testimage.Serve(t)
//	img, err := rt.PullImage(ctx, runtimeiface.ImageSpec{Ref: images.Prog}, nil)
//
// The images hold one small static program, built from source once per process
// with the go command, which has to be in PATH; what it does is told by its
// arguments and documented at its source, in folder prog.
//
// It is not a general image builder. The registry speaks plain HTTP: runtimes
// take that from 127.0.0.1 and localhost, some only if so configured.
package testimage
