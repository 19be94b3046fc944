package main

import (
	"os/exec"
	"testing"
	"time"

	"liege/emperor/channel"
	"liege/vassal"
)

// TestCoreGone: somebody else who holds the ends of what a core that is gone talked
// on does not keep liege serve waiting.
func TestCoreGone(t *testing.T) {
	near, far, err := channel.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	status, staged, err := packetPair()
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Close()
	g := &generation{cmd: exec.Command("/bin/sh", "-c", "exit 3"), control: near, failed: make(chan vassal.Problem, 2), done: make(chan struct{}), closeLog: func() {}}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := far.WriteString(`{"v":1,"type":"failed","reason":{"severity":"error","code":"import-error","message":"no module"}}`); err != nil {
		t.Fatal(err)
	}
	go g.watch(status)
	select {
	case <-g.done:
	case <-time.After(time.Minute):
		t.Fatal("it waits for whoever holds the core's end")
	}
	if g.cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("it ended with %v", g.cmd.ProcessState)
	}
	if ps := g.reason(); len(ps) != 1 || ps[0].Message != "no module" {
		t.Errorf("%v, want what it said", ps)
	}
}
