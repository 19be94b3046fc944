// Package resolve asks the host what a vassal.Config leaves open: users become
// ids, paths become binds or descriptors, the interpreter is found, the
// SELinux context is known to the loaded policy. It starts and changes
// nothing, so that check and explain say what a start would do.
package resolve

import (
	"liege/sandbox/stage"
	"liege/vassal"
)

// Result is a Config resolved against this host.
type Result struct {
	Config   vassal.Config
	UID      int
	GID      int
	User     string
	Group    string
	Groups   []Group // kept supplementary groups
	Dropped  []Group
	Dir      string // the app's directory, absolute; empty: none
	Binds    []Bind
	Listen   []vassal.Listener // normalised addresses
	App      vassal.App
	Plan     stage.Plan // all but the descriptors
	Problems vassal.Problems
}

// Group is one group by number and name.
type Group struct {
	GID  int
	Name string
}

// Bind is one host path that the vassal sees.
type Bind struct {
	Source, Target string
	Writable       bool
	Tenant         bool   // a non-root user can move it: cloned by descriptor, attached by the stage
	Links          []Link // symbolic links to re-create inside, from the outermost
	Why            string // the option that names it
	At             vassal.Origin
}

// Link is one symbolic link of the chain to a bound path.
type Link struct{ Path, Target string }
