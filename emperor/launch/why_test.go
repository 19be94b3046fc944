package launch

import (
	"testing"

	"liege/emperor/expand"
	"liege/emperor/resolve"
	"liege/sandbox/stage"
	"liege/vassal"
)

// TestWhy: an end for want of memory names the limit, and one at a directory
// that keeps the user out its line and the remedy.
func TestWhy(t *testing.T) {
	var cfg vassal.Config
	cfg.File = "/v/x.ini"
	in := &instance{p: &prepared{Expanded: expand.Expanded{Config: cfg}}}
	if got, want := in.memoryHint(), "the host, or a cgroup above, had no more memory: memory-max bounds one vassal"; got != want {
		t.Errorf("got %q", got)
	}
	in.p.Config.Limits.MemoryMax, in.p.Config.Limits.MemoryMaxAt = 64<<20, vassal.Origin{Line: 5}
	if got, want := in.memoryHint(), "memory-max = 64M is its limit (/v/x.ini:5)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	in.p.Result = &resolve.Result{Problems: vassal.Problems{{Severity: vassal.Warning, Code: vassal.CodeNoAccess, File: "/v/x.ini", Line: 3, Key: "chdir", Hint: "chmod"}}}
	f := &stage.Failure{Step: stage.StepExec, What: "chdir /srv/x", Msg: "permission denied"}
	if p := in.barred(f, stageProblem(f, cfg.File)); p.Line != 3 || p.Key != "chdir" || p.Hint != "chmod" || p.Severity != vassal.Error {
		t.Errorf("%+v", p)
	}
	f.What = "exec /x"
	if p := in.barred(f, stageProblem(f, cfg.File)); p.Hint != "" {
		t.Errorf("another step: %+v", p)
	}
}
