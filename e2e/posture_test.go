package e2e

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/internal/testposture"
)

var update = flag.Bool("update", false, "rewrite goldens")

// TestPosture: what a worker has and may do, compared with a golden. Every
// attempt gets through outside, made by the same program as root: a probe that
// is broken does not pass.
func TestPosture(t *testing.T) {
	r := newRealm(t)
	probe, err := os.ReadFile("testdata/posture/probe.py")
	if err != nil {
		t.Fatal(err)
	}
	r.write("app/app.py", string(probe))
	secret := r.write("secret", "of root's")
	neighbour := r.write("neighbour/file", "of another vassal's")
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("liege-posture-%d", os.Getpid())
	var hosts []string // an abstract socket, an address
	for _, x := range [][2]string{{"unix", "@" + name}, {"tcp4", "127.0.0.1:0"}} {
		l, err := net.Listen(x[0], x[1])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		hosts = append(hosts, strings.TrimPrefix(l.Addr().String(), "@"))
	}
	calls, err := os.ReadFile("../sandbox/seccomp/calls_" + runtime.GOARCH + ".txt")
	if err != nil {
		t.Fatal(err) // no filter is made for this architecture, and nothing starts
	}
	env, err := testposture.Environ(string(calls), r.dir, [5]string{hosts[0], hosts[1], filepath.Join(r.run, "control.sock"), secret, neighbour})
	if err != nil {
		t.Fatal(err)
	}
	lines := "uid = nobody\ngid = nogroup\nno-initgroups = true\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	for _, kv := range env {
		lines += "env = " + kv + "\n"
	}
	for _, tc := range []struct{ name, line string }{{"plain", "# as it is"}, {"strict", "seccomp = strict"}} {
		t.Run(tc.name, func(t *testing.T) {
			r := r.in(t)
			r.drop(tc.name, lines+tc.line+"\n")
			v := r.up(tc.name)
			_, got := r.get(v.Listen[0], "/")
			got = strings.ReplaceAll(got, tc.name, "NAME")
			const file = "testdata/posture/golden.txt"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	t.Run("outside: the negative control", func(t *testing.T) {
		getThrough(t, filepath.Join(r.dir, "app/app.py"), append(env, fmt.Sprintf("PROBE_PID=%d", os.Getpid())))
	})
}

// getThrough runs the probe as root, outside.
func getThrough(t *testing.T, probe string, env []string) {
	cmd := exec.Command(testenv.SystemPython, probe)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	through, missing := 0, 0
	for line := range strings.Lines(string(out)) {
		switch name, what, _ := strings.Cut(strings.TrimSpace(line), ": "); {
		case what == "gets through":
			through++
		case what == "missing": // in this kernel: nothing is proved of it
			missing++
			t.Logf("%s: not in this kernel", name)
		case unprivileged(name):
			missing++
			t.Logf("%s: root of this machine may not either", name)
		default:
			t.Errorf("%s: %s outside too: the probe proves nothing", name, what)
		}
	}
	if through < 3*missing || through == 0 {
		t.Errorf("%d attempts get through, %d are missing:\n%s", through, missing, out)
	}
}

// unprivileged tells whether the attempt needs what root of a container may
// lack, or what a host may have switched off.
func unprivileged(name string) bool {
	for _, n := range []string{"io_uring", "perf_event_open", "bpf", "kexec", "module", "iopl", "ioperm", "settime", "clock_settime", "syslog", "acct", "reboot", "swap", "quotactl", "keyctl", "_key", "kcore", "keys", "sysrq", "cgroup", "core_pattern", "nice", "unshare user", "userfaultfd", "open_by_handle_at", "delete_module", "lookup_dcookie", "modify_ldt"} {
		if strings.Contains(name, n) {
			return true
		}
	}
	return false
}
