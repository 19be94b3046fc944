package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/policy"
)

// everything is what a guest promises its tests (TEST_HAVE).
const everything = "guest,enforcing,selinux,root,sysresource,opentree,nftables,cgroupv2,python3,flask,curl"

// Tests that have nothing to do with cgroups are run in one of the two boots:
// where the controllers are changes nothing for them.
const (
	onlyV2     = "Upgrade|ContextRefused|EveryProcessHasItsDomain|Places|DenialSeen|Quota|Enter|Golden"
	onlyHybrid = "Removal|Categories|Permissive|HooksStayWhereTheyAre|CoreNotExecutable|BrokenEdit|Stored|ConnectUser"
)

// tooLong are the tests of TestPolicyChanges.
const tooLong = "PolicyLive"

// TestSystem boots our package on Debian twice, each time with the tests of
// package guest: once with cgroup v2 alone, once with v1's controllers too.
func TestSystem(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Parallel() // a machine waits a lot, and so does who makes one
	w := newWork(t)
	system := buildSystem(t, w)
	tests := filepath.Join(w.Dir, "guest.test")
	compile(t, "test", "-c", "-o", tests, "./e2e/vm/guest")
	for _, boot := range []struct{ name, line, have, skip string }{
		{"v2", "", everything, onlyHybrid + "|" + tooLong},
		{"hybrid", "systemd.unified_cgroup_hierarchy=0", everything + ",cgroupv1", onlyV2 + "|" + tooLong},
	} {
		t.Run(boot.name, func(t *testing.T) {
			t.Parallel()
			choice := fmt.Sprintf("-test.run '%s' -test.skip '^Test(%s)$'", os.Getenv("TEST_RUN"), boot.skip)
			m := Machine{System: system, Payload: guestPayload(t, w, tests, boot.have, choice), Append: boot.line, Limit: 10 * time.Minute}
			runTests(t, w, m)
		})
	}
}

// TestPolicyChanges boots a system whose policy is changed while it runs: a
// compiler of 400 modules is slow in a machine without KVM.
func TestPolicyChanges(t *testing.T) {
	testenv.Need(t, testenv.VM)
	t.Parallel()
	w := newWork(t)
	system := buildSystem(t, w)
	tests := filepath.Join(w.Dir, "guest.test")
	compile(t, "test", "-c", "-o", tests, "./e2e/vm/guest")
	runTests(t, w, Machine{System: system, Payload: guestPayload(t, w, tests, everything, "-test.run '^Test("+tooLong+")$'"), Limit: 10 * time.Minute})
}

func newWork(t *testing.T) *Work {
	t.Helper()
	w, err := NewWork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func buildSystem(t *testing.T, w *Work) System {
	t.Helper()
	debs, err := filepath.Glob("../../bin/liege_*.deb")
	if err != nil || len(debs) != 1 {
		t.Fatalf("%d packages bin/liege_*.deb; want one; hint: make deb", len(debs))
	}
	base, err := w.Base(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("making a system with", filepath.Base(debs[0]))
	system, err := w.Build(t.Context(), base, Image{Debs: debs, Modules: modules(t, w), Setup: addApps})
	if err != nil {
		t.Fatal(err)
	}
	return system
}

// modules are those of two apps and of one that many share, as "liege policy
// new" makes them, and what the tests' negative controls need.
func modules(t *testing.T, w *Work) []Module {
	t.Helper()
	dir := filepath.Join(w.Dir, "modules")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	all := []Module{{CIL: "testdata/control.cil"}}
	for i, id := range []string{"foo", "bar", "shared"} {
		at := "/srv/www/" + id
		m, err := policy.New(policy.App{ID: id, Ports: []int{8101 + i}, MCS: id == "shared", Paths: []policy.Path{
			{Path: at, Kind: policy.ReadOnly}, {Path: at + "/data", Kind: policy.ReadWrite}, {Path: at + "/cache", Kind: policy.ReadWrite},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Write(dir, false); err != nil {
			t.Fatal(err)
		}
		cil, fc := m.Files()
		all = append(all, Module{CIL: filepath.Join(dir, cil), Contexts: filepath.Join(dir, fc)})
	}
	return all
}

// addApps makes the users of the demonstration apps, and places for their
// files.
func addApps(ctx context.Context, root string) error {
	for _, app := range []string{"foo", "bar"} {
		for _, args := range [][]string{
			{"useradd", "--user-group", "--no-create-home", "--home-dir", "/srv/" + app, "--shell", "/usr/sbin/nologin", app},
			{"mkdir", "/srv/" + app},
		} {
			if err := InRoot(ctx, root, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// guestPayload is a directory with the compiled tests and how to run them:
// choice are options that choose among them, as does TEST_RUN in the
// environment, for who works on one.
func guestPayload(t *testing.T, w *Work, tests, have, choice string) string {
	t.Helper()
	dir, err := os.MkdirTemp(w.Dir, "payload-")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/bash\nexport TEST_HAVE=%s\nexec ./guest.test -test.v -test.timeout 9m %s\n", have, choice)
	err = os.Mkdir(filepath.Join(dir, "posture"), 0o755)
	for name, from := range map[string]string{"golden.txt": "../testdata/posture/golden.txt", "probe.py": "../testdata/posture/probe.py", "calls.txt": "../../sandbox/seccomp/calls_amd64.txt"} {
		var b []byte
		if err == nil {
			b, err = os.ReadFile(from)
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "posture", name), b, 0o644))
	}
	if err := errors.Join(err, os.Link(tests, filepath.Join(dir, "guest.test")), os.WriteFile(filepath.Join(dir, "run.sh"), []byte(text), 0o755)); err != nil {
		t.Fatal(err)
	}
	compile(t, "build", "-o", filepath.Join(dir, "hostilecore"), "./e2e/testdata/hostilecore")
	return dir
}

// compile runs a go command that builds something for a machine without a C
// library of ours.
func compile(t *testing.T, verb string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{verb, "-tags", "osusergo,netgo"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

// runTests boots a machine whose payload is a Go test binary run with
// -test.v. All of its tests must run and pass: a guest has what it promises,
// so nothing is skipped there.
func runTests(t *testing.T, w *Work, m Machine) {
	t.Helper()
	name := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	fmt.Printf("%s: booting\n", name)
	began := time.Now()
	var passed, skipped int
	m.Line = func(text string) {
		fmt.Printf("%s %3.0fs | %s\n", name, time.Since(began).Seconds(), text)
		switch {
		case strings.HasPrefix(text, "--- PASS"):
			passed++
		case strings.HasPrefix(strings.TrimSpace(text), "--- SKIP"):
			skipped++
		}
	}
	status, err := m.Run(t.Context(), w)
	switch {
	case err != nil:
		t.Error(err)
	case status != 0:
		t.Errorf("the tests in the machine ended with status %d; what they said is above", status)
	case passed == 0 || skipped > 0:
		t.Errorf("%d tests passed and %d were skipped in the machine; want some and none", passed, skipped)
	}
	t.Logf("%d tests in %.0f s", passed, time.Since(began).Seconds())
}
