package launch

import (
	"fmt"
	"testing"

	"liege/vassal"
)

// What a core claims is shown bounded, harmless, and never as worse or milder
// than what it may say.
func TestClaims(t *testing.T) {
	in := &instance{}
	many := make(vassal.Problems, maxClaims+10)
	for i := range many {
		many[i] = vassal.Problem{Severity: vassal.Error, Code: "made-up", Message: fmt.Sprintf("\x1b[2J%d\nline", i)}
	}
	got := in.claims(many, vassal.Warning)
	if len(got) != maxClaims || got[0].Severity != vassal.Warning || got[0].Code != vassal.CodeStartFailed || got[0].Message != "?[2J0\nline" {
		t.Errorf("%d claims, first %+v", len(got), got[0])
	}
	got = in.claims(vassal.Problems{{Severity: vassal.Note, Code: vassal.CodeImportError}}, vassal.Error)
	if got[0].Severity != vassal.Error || got[0].Code != vassal.CodeImportError {
		t.Errorf("a reason: %+v", got[0])
	}
}

// A core that fails over and over again does not fill the Emperor's memory.
func TestFailedAgainAndAgain(t *testing.T) {
	in := &instance{}
	ready := false
	for range 10 * maxClaims {
		m := vassal.Message{V: 1, Type: vassal.Failed, Reason: &vassal.Problem{Message: "no"}}
		if err := in.obey(m, nil, &ready); err != nil {
			t.Fatal(err)
		}
	}
	if len(in.said) != maxClaims {
		t.Errorf("%d reasons kept, want %d", len(in.said), maxClaims)
	}
}

// Readiness and rest are a core's claims about a time: that it is ready changes nothing
// once it was given up, and that nobody asks is no word of one that does not serve yet.
func TestUntimely(t *testing.T) {
	say := func(in *instance, ready *bool, m vassal.MessageType) {
		t.Helper()
		if err := in.obey(vassal.Message{V: 1, Type: m}, nil, ready); err != nil { // a Commit of nil would panic
			t.Fatal(err)
		}
	}
	ready := false
	in := newInstance(t.Context(), nil, &prepared{}, 1)
	in.verified.Store(true)
	say(in, &ready, vassal.Idle)
	if len(in.Idle()) > 0 {
		t.Error("idle before it is ready")
	}
	for range 2 {
		if !in.Forgo() {
			t.Error("it cannot be given up")
		}
	}
	say(in, &ready, vassal.Ready)
	if len(in.Ready()) > 0 || !ready {
		t.Error("ready after it was given up")
	}
	say(in, &ready, vassal.Idle)
	if len(in.Idle()) != 1 {
		t.Error("what serves cannot be idle")
	}
	in = newInstance(t.Context(), nil, nil, 2)
	if !in.decide(serves) || in.Forgo() {
		t.Error("what serves was given up")
	}
}
