package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sleeping: what vassals cost that nobody asks for, and how long the first
// request to one of them takes. uWSGI has no figure: its Emperor polls.
func (b *bench) sleeping(ctx context.Context) error {
	l, err := b.liege("sleeping")
	if err != nil {
		return err
	}
	defer l.end()
	file := l.file
	l.file = func(v string) string { return file(v) + "[vassal]\non-demand = true\nidle = 2\n" }
	began := time.Now()
	for i := range b.sleepers {
		if err := l.drop(fmt.Sprintf("s%05d", i)); err != nil {
			return err
		}
	}
	if err := b.asleep(ctx, l, b.sleepers); err != nil {
		return err
	}
	took := time.Since(began)
	// As long as it takes until memory that only the starts needed is given back.
	if err := pause(ctx, 70*time.Second); err != nil {
		return err
	}
	var wakes series
	for i := range b.rounds * 2 {
		t := time.Now()
		if err := l.answer(ctx, fmt.Sprintf("s%05d", i*7%b.sleepers)); err != nil {
			return err
		}
		wakes = append(wakes, float64(time.Since(t).Microseconds())/1000)
	}
	if err := b.asleep(ctx, l, b.sleepers); err != nil {
		return err
	}
	const quiet = 30 * time.Second
	before, err := cpuOf(l.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := pause(ctx, quiet); err != nil {
		return err
	}
	after, err := cpuOf(l.cmd.Process.Pid)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.cmd.Process.Pid))
	if err != nil {
		return err
	}
	fmt.Printf("%d vassals that sleep\n  from the first file to the last listener %.1f s\n  the first request to one %s ms\n  the Emperor: %s of RSS, %s threads, %.2f %% of a CPU\n\n",
		b.sleepers, took.Seconds(), wakes, field(string(status), "VmRSS"), field(string(status), "Threads"), float64(after-before)/quiet.Seconds())
	return nil
}

// asleep waits until n vassals sleep.
func (b *bench) asleep(ctx context.Context, l *contender, n int) error {
	dir := b.runDir(filepath.Base(filepath.Dir(l.etc)))
	for deadline := time.Now().Add(15 * time.Minute); time.Now().Before(deadline); {
		out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "liege"), "ls", "--state", "sleeping", "--json", "--run-dir", dir).Output()
		var list []struct{}
		if err == nil && json.Unmarshal(out, &list) == nil && len(list) == n {
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return fmt.Errorf("not all sleep; the Emperor said:\n%s", tail(l.said.String()))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cpuOf is the CPU time of pid in hundredths of a second.
func cpuOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[12])
	return user + system, err
}

// field is a line of /proc/PID/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return "?"
}
