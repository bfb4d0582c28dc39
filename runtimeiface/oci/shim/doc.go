// Package shim is the keeper of one pod of runtimeiface/oci: the small process
// that holds the pod's namespaces, its containers' output and the memory of how
// they ended, while agents come and go.
//
// It is not a library for other use: the agent in package oci starts
// nodekit-shim, whose main is one call:
//
//	func main() { os.Exit(shim.Main()) }
//
// # Life
//
// The agent starts the shim in the new namespaces of the pod, with descriptor 3
// a connected socket and 4 the pod's lock file, whose flock says that the shim
// lives. Until the agent commits the sandbox the shim ends with that socket.
// After that it stays until it is told to shut down; an agent that comes back
// connects to the socket [SocketName] in the sandbox's directory.
//
// Containers are made by the OCI runtime's command line. The shim is a
// subreaper: containers and the processes of an exec become its children, so
// no pid is used after its process is gone. An exit is in its file ([ExitRecord])
// before anyone is told, and soon on disk.
//
// Clients that are attached give the shim pipes. It writes into them as far as
// there is room, and lets the program wait for the rest.
//
// For a PID namespace that containers share, and for a pod's user namespace, the
// shim starts its own program once more, as the process that holds them: see
// [PauseRequest]. When that dies the shim ends the pod.
//
// # Memory
//
// There is one shim per pod, so memory is the price of everything in here: no
// JSON, no reflection, no formatting beyond strconv, buffers that are held
// only while there is something in them.
//
// # Traps
//
// Logs are written without fsync: they survive the agent and the shim, not a
// loss of power. A disk that is full loses lines rather than stopping the
// program that writes them.
package shim
