package kernel

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

func cat(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func step(s string) []string { return []string{self, probeArg, s} }

// TestSetcon: who may enter a domain with setcon. The constructor is that of
// the built liege-stage.
func TestSetcon(t *testing.T) {
	who := step("whoami")
	for _, tc := range []struct {
		name, domain string
		args         []string
		out          string // what is printed
		status       string // a part of what is in the status pipe
	}{
		{"a Go program", "stage_t", step("current=" + context("app_t")), "current=u:r:app_t:s0: write /proc/thread-self/attr/current: " + errno(unix.EPERM), ""},
		{"a Go program, into a bounded domain", "stage_t", step("current=" + context("bounded_t")), context("bounded_t"), ""},
		{"the constructor", "stage_t", become(context("app_t"), who...), context("app_t"), ""},
		{"the constructor under no_new_privs", "stage_t", cat(step("nnp"), become(context("app_t"), who...)), context("app_t"), ""},
		{"the constructor after setuid", "stage_t", cat(step("uid"), become(context("app_t"), who...)), context("app_t"), ""},
		{"into a domain without a rule", "stage_t", become(context("far_t"), who...), "", failure("setcon", "write", unix.EACCES)},
		{"into a type that is not there", "stage_t", become(context("none_t"), who...), "", failure("setcon", "write", unix.EINVAL)},
		{"without setcurrent, as a hook's command is", "hook_t", become(context("app_t"), who...), "", failure("setcon", "write", unix.EACCES)},
		{"another form of the same context", "stage_t", become("u:r:app_t:s0:c1,c0", who...), "", failure("setcon", "the kernel shows another context after it was set", unix.EPERM)},
		{"its canonical form", "stage_t", become("u:r:app_t:s0:c0,c1", who...), "u:r:app_t:s0:c0,c1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ask(t, tc.domain, tc.args...)
			if got.out != tc.out || !strings.Contains(got.status, tc.status) || tc.status == "" && got.status != "" {
				t.Errorf("got %q, status %q; want %q, %q", got.out, got.status, tc.out, tc.status)
			}
		})
	}
}

func failure(step, msg string, errno unix.Errno) string {
	return fmt.Sprintf(`{"step":%q,"msg":%q,"errno":%d}`, step, msg, errno)
}

// TestSetconPermissive: the rule about threads is no matter of enforcement.
// What enforcement decides is allowed meanwhile.
func TestSetconPermissive(t *testing.T) {
	testenv.Need(t, testenv.Micro)
	setEnforcing(t, "0")
	defer setEnforcing(t, "1")
	who := step("whoami")
	threads := ask(t, "stage_t", step("current="+context("app_t"))...)
	if !strings.HasSuffix(threads.out, errno(unix.EPERM)) {
		t.Errorf("a Go program: %q; want EPERM", threads.out)
	}
	if far := ask(t, "stage_t", become(context("far_t"), who...)...); far.out != context("far_t") {
		t.Errorf("the constructor into a domain without a rule: %+v; want far_t", far)
	}
}

// TestSetconProc: what the constructor does when a hook changed /proc.
func TestSetconProc(t *testing.T) {
	const open = "open /proc/self/attr/current"
	for _, tc := range []struct{ how, status string }{
		{"same", ""},
		{"read-only", failure("setcon", open, unix.EROFS)},
		{"missing", failure("setcon", open, unix.EXDEV)}, // an empty directory is no proc
		{"forged", failure("setcon", open, unix.EXDEV)},
		{"covered", failure("setcon", open, unix.EXDEV)},
	} {
		t.Run(tc.how, func(t *testing.T) {
			got := ask(t, "stage_t", cat(step("proc="+tc.how), become(context("app_t"), step("whoami")...))...)
			if got.status != tc.status || (got.out == context("app_t")) != (tc.status == "") {
				t.Errorf("got %q, status %q; want %q", got.out, got.status, tc.status)
			}
		})
	}
}

// TestReport: what the constructor says after setcon is said by the app's
// domain, which needs a rule for it. So the end of the pipe means nothing.
func TestReport(t *testing.T) {
	for _, tc := range []struct{ domain, status string }{
		{"app_t", failure("exec", "", unix.ENOENT)},
		{"mute_t", ""},
	} {
		if got := ask(t, "stage_t", become(context(tc.domain), "/none")...); got.status != tc.status {
			t.Errorf("%s: status %q, want %q", tc.domain, got.status, tc.status)
		}
	}
}
