package sandbox

import (
	"os"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before Go starts
)

// The runtime runs this on the main thread; main itself may find itself on
// another one. libcontainer's init must be on it: the kernel gives the label of
// keyrings (attr/keycreate) to no other thread, and the start would fail, once
// in a while, where SELinux is on. runc does the same.
func init() { runtime.LockOSThread() }

// Init must be the first call in main of liege-emperor, and in TestMain of a
// test that starts sandboxes: in the child that libcontainer makes of this
// binary it does not return.
//
// The main goroutine is locked to the main thread. libcontainer sends a thread
// into each sandbox's mount namespace and lets it die there; the main thread
// cannot die, would stay inside, and with it the whole process as /proc shows
// it.
func Init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITTYPE") != "" {
		libcontainer.Init()
	}
}
