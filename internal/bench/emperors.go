package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is one Emperor over one directory.
type contender struct {
	name string
	etc  string
	file func(vassal string) string // text of a vassal file
	sock func(vassal string) string
	cmd  *exec.Cmd
	said bytes.Buffer
}

func (c *contender) drop(vassal string) error {
	tmp := filepath.Join(c.etc, "."+vassal+".tmp")
	if err := os.WriteFile(tmp, []byte(c.file(vassal)), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.etc, vassal+".ini"))
}

func (c *contender) end() {
	_ = c.cmd.Process.Signal(syscall.SIGINT) // an error: it is gone already
	done := make(chan struct{})
	go func() { defer close(done); _ = c.cmd.Wait() }() // its exit code is nobody's business
	select {
	case <-done:
	case <-time.After(40 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
	}
}

// app are the lines that both understand: one worker process, its own
// namespaces, as nobody.
func (b *bench) app(sock string) string {
	return fmt.Sprintf("[uwsgi]\nplugins = python3\nuid = nobody\ngid = nogroup\nmaster = true\nprocesses = 1\nchdir = %[1]s/app\nwsgi-file = %[1]s/app/app.py\nhttp-socket = %[2]s\nchmod-socket = 666\ndisable-logging = true\n", b.dir, sock)
}

func (b *bench) liege(name string) (*contender, error) {
	dir := filepath.Join(b.dir, name)
	c := &contender{name: "liege", etc: filepath.Join(dir, "vassals")}
	if err := os.MkdirAll(c.etc, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "emperor.ini"), []byte("[emperor]\n"), 0o644); err != nil {
		return nil, err
	}
	// Below a directory of root's alone the Emperor binds the socket itself.
	c.sock = func(v string) string { return filepath.Join(dir, v+".sock") }
	c.file = func(v string) string { return b.app(c.sock(v)) }
	c.cmd = exec.Command(filepath.Join(b.bin, "liege"), "emperor", "--config", filepath.Join(dir, "emperor.ini"),
		"--run-dir", b.runDir(name), "--log-dir", filepath.Join(dir, "log"), "--state-dir", filepath.Join(dir, "state"), c.etc)
	c.cmd.Stdout, c.cmd.Stderr = &c.said, &c.said
	return c, c.cmd.Start()
}

// uwsgi is uWSGI's Emperor with the namespaces it can give, looking once a
// second and without its pause between two starts.
func (b *bench) uwsgi(name string) (*contender, error) {
	dir := filepath.Join(b.dir, name)
	c := &contender{name: "uWSGI", etc: filepath.Join(dir, "vassals")}
	if err := os.MkdirAll(c.etc, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // its vassals bind as nobody
		return nil, err
	}
	c.sock = func(v string) string { return filepath.Join(dir, v+".sock") }
	c.file = func(v string) string { return b.app(c.sock(v)) }
	c.cmd = exec.Command("/usr/bin/uwsgi", "--emperor", c.etc, "--emperor-use-clone", "fs,ipc,uts,pid,net",
		"--emperor-freq", "1", "--emperor-throttle", "0")
	c.cmd.Stdout, c.cmd.Stderr = &c.said, &c.said
	return c, c.cmd.Start()
}

// answer waits for the first answer of a vassal.
func (c *contender) answer(ctx context.Context, vassal string) error {
	client := unixClient(c.sock(vassal))
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vassal/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("%s: %s does not answer; it said:\n%s", c.name, vassal, tail(c.said.String()))
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

func unixClient(sock string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", sock)
		},
	}}
}

// both starts both Emperors and calls f with them.
func (b *bench) both(name string, f func(liege, uwsgi *contender) error) error {
	l, err := b.liege(name + "-liege")
	if err != nil {
		return err
	}
	defer l.end()
	u, err := b.uwsgi(name + "-uwsgi")
	if err != nil {
		return err
	}
	defer u.end()
	time.Sleep(2 * time.Second) // both look at their directories once
	return f(l, u)
}

// atOnce are how many vassals are dropped together, and how often.
var atOnce = []struct{ vassals, rounds int }{{20, 3}, {100, 2}}

// start: from a file dropped to the first answer, one at a time; then many at
// once; and of that, how long a sandbox takes, beside bubblewrap's.
func (b *bench) start(ctx context.Context) error {
	var liege *contender
	err := b.both("start", func(l, u *contender) error {
		liege = l
		one := map[*contender]*series{l: {}, u: {}}
		for i := range b.rounds * 2 {
			for _, c := range []*contender{l, u} {
				v := fmt.Sprintf("one%d", i)
				took, err := c.serve(ctx, []string{v})
				if err != nil {
					return err
				}
				*one[c] = append(*one[c], took)
			}
		}
		compare("From a file dropped to the first answer, one vassal with one Python worker", "ms", *one[l], *one[u], "uWSGI", true)
		for _, n := range atOnce {
			many := map[*contender]*series{l: {}, u: {}}
			for i := range n.rounds {
				var names []string
				for j := range n.vassals {
					names = append(names, fmt.Sprintf("many%d-%d-%d", n.vassals, i, j))
				}
				for _, c := range []*contender{l, u} {
					took, err := c.serve(ctx, names)
					if err != nil {
						return err
					}
					*many[c] = append(*many[c], took)
				}
			}
			compare(fmt.Sprintf("%d vassals dropped at once, until the last one answers", n.vassals), "ms", *many[l], *many[u], "uWSGI", true)
		}
		return nil
	})
	if err != nil {
		return err
	}
	wraps, err := bubbles(ctx, b.rounds*2)
	if err != nil {
		return err
	}
	boxes := sandboxes(liege.said.String(), "one")
	if len(boxes) == 0 {
		return errors.New("the Emperor's log does not say how long a sandbox takes")
	}
	compare("Of one vassal's start: the sandbox, from the decision to its first program", "ms", boxes, wraps, "bwrap", true)
	return nil
}

// serve drops vassals and returns the milliseconds until the last one answers.
func (c *contender) serve(ctx context.Context, vassals []string) (float64, error) {
	t := time.Now()
	for _, v := range vassals {
		if err := c.drop(v); err != nil {
			return 0, err
		}
	}
	for _, v := range vassals {
		if err := c.answer(ctx, v); err != nil {
			return 0, err
		}
	}
	return millis(time.Since(t)), nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sandboxes reads from an Emperor's log how long those of the vassals took whose
// names begin with prefix.
func sandboxes(log, prefix string) (all series) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "msg=ready vassal="+prefix) {
			continue
		}
		_, text, _ := strings.Cut(line, " sandbox=")
		if d, err := time.ParseDuration(strings.TrimSpace(text)); err == nil {
			all = append(all, millis(d))
		}
	}
	return all
}

// bubbles is how long bubblewrap takes for namespaces of every kind, the host's
// root, /proc and /dev, until a program that does nothing has ended in it.
func bubbles(ctx context.Context, rounds int) (all series, err error) {
	for range rounds {
		t := time.Now()
		out, err := exec.CommandContext(ctx, "/usr/bin/bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "/usr/bin/true").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("bwrap: %w: %s", err, out)
		}
		all = append(all, millis(time.Since(t)))
	}
	return all, nil
}

// memory: what a running vassal at rest costs, by the proportional set size of all
// processes below the Emperor.
func (b *bench) memory(ctx context.Context) error {
	return b.both("memory", func(l, u *contender) error {
		var got [2]series
		for i, c := range []*contender{l, u} {
			for j := range b.vassals {
				if err := c.drop(fmt.Sprintf("v%d", j)); err != nil {
					return err
				}
			}
			for j := range b.vassals {
				if err := c.answer(ctx, fmt.Sprintf("v%d", j)); err != nil {
					return err
				}
			}
			if err := pause(ctx, 10*time.Second); err != nil { // until they are at rest
				return err
			}
			total, err := pssBelow(c.cmd.Process.Pid)
			if err != nil {
				return err
			}
			got[i] = series{float64(total) / 1024 / float64(b.vassals)}
		}
		compare(fmt.Sprintf("Memory of a running vassal with one Python worker (PSS, mean of %d)", b.vassals), "MB", got[0], got[1], "uWSGI", true)
		return nil
	})
}

// pssBelow sums the PSS in KiB of every descendant of pid.
func pssBelow(pid int) (int, error) { return pss(pid, false) }

// pss is pssBelow, with pid itself if that counts.
func pss(pid int, itself bool) (int, error) {
	parent := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		if f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(f) > 1 {
			parent[p], _ = strconv.Atoi(f[1])
		}
	}
	below := func(p int) bool {
		for p = parent[p]; p > 1; p = parent[p] {
			if p == pid {
				return true
			}
		}
		return false
	}
	total := 0
	for p := range parent {
		if !below(p) && (p != pid || !itself) {
			continue
		}
		roll, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(roll)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kb, err := strconv.Atoi(f[1])
				if err != nil {
					return 0, err
				}
				total += kb
			}
		}
	}
	return total, nil
}
