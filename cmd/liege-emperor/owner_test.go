package main

import (
	"testing"

	"golang.org/x/sys/unix"

	"liege/emperor/resolve"
)

// The owner's name is asked for by the loop that all vassals share: it must not
// start a program, which may take seconds when a directory server is down.
func TestOwnerNameIsCheap(t *testing.T) {
	users := (resolve.Files{Asked: &resolve.Asked{}}).Local()
	if got := ownerName(users, 0); got != "root" {
		t.Errorf("uid 0 is %s", got)
	}
	const unknown = 1 << 30
	before := childFaults(t)
	for range 10 {
		if got := ownerName(users, unknown); got != "1073741824" {
			t.Errorf("uid %d is %s", unknown, got)
		}
	}
	if after := childFaults(t); after != before {
		t.Errorf("a name starts a program: its children met %d page faults", after-before)
	}
}

// childFaults counts the page faults of the children that have ended: no
// program runs without any.
func childFaults(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt
}
