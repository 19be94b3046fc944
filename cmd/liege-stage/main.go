// Command liege-stage is the first process of a sandbox: package stage, and
// the C constructor that is its last step. It is built static, since a tenant's
// root file system may hold any loader:
//
//	CGO_ENABLED=1 go build -ldflags '-linkmode external -extldflags -static' ./cmd/liege-stage
package main

import (
	"os"
	"runtime"

	"liege/sandbox/stage"
)

func main() {
	runtime.LockOSThread() // the first thread: main runs on it
	os.Exit(stage.Main(os.Args))
}
