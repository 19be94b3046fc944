package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"liege/emperor/control"
	"liege/vassal"
	"liege/vassal/inifile"
)

func (a *app) handoverCmd() *cobra.Command {
	var patience time.Duration
	c := &cobra.Command{
		Use: "handover", Short: "put a new Emperor in the place of the one that runs; no vassal stops",
		Long: "The Emperor ends without draining (SIGUSR2), systemd starts the installed one, and that\ntakes the vassals over: each gets a successor, and no request is lost. It is how an\nupgrade, and what emperor.ini says of the Emperor itself, come into force.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.handover(cmd.Context(), patience) },
	}
	c.Flags().DurationVar(&patience, "timeout", defaultTimeout, "how long to wait for the next Emperor")
	return a.controlFlags(c)
}

// usr2 is the bit of SIGUSR2 in the masks of proc_pid_status(5).
const usr2 = 1 << (unix.SIGUSR2 - 1)

// handover tells the Emperor to hand over, and waits for the one that follows.
func (a *app) handover(ctx context.Context, patience time.Duration) error {
	if os.Geteuid() != 0 {
		return exitWith(exitDenied, vassal.CodeNotPermitted, "handover: not permitted", "sudo liege handover")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	old, err := a.emperorPID(ctx)
	if err != nil {
		return err
	}
	switch caught, err := catches(old); {
	case err != nil:
		return err
	case caught&usr2 == 0: // it would ignore the signal for ever
		return exitWith(exitFailed, vassal.CodeNotDone, fmt.Sprintf("handover: the Emperor that runs (pid %d) is older than that", old),
			fmt.Sprintf("kill -KILL %d: what runs is taken over all the same, when systemd has started the next one", old))
	}
	if err := a.nextReads(old); err != nil {
		return err
	}
	if err := unix.Kill(old, unix.SIGUSR2); err != nil {
		return fmt.Errorf("handover: signal to the Emperor (pid %d): %w", old, err)
	}
	refuses := time.Now().Add(refusal)
	for {
		select {
		case <-ctx.Done():
			return exitWith(exitTimeout, vassal.CodeTimedOut, fmt.Sprintf("handover: no other Emperor than pid %d answers; the vassals go on serving", old),
				"systemctl status liege; without systemd: start it as before")
		case <-time.After(50 * time.Millisecond):
		}
		if now, err := a.emperorPID(ctx); err == nil && now != old {
			if !a.json {
				fmt.Fprintf(a.out, "the Emperor is pid %d now, was %d; each vassal gets a successor: liege ls\n", now, old)
			}
			return nil
		} else if err == nil && time.Now().After(refuses) {
			return exitWith(exitFailed, vassal.CodeNotDone, fmt.Sprintf("handover: the Emperor (pid %d) stays; its log says why", old), "journalctl -u liege -n 20")
		}
	}
}

// refusal is how long an Emperor that was told to hand over may still answer: it
// saves what it counted first.
const refusal = 10 * time.Second

// nextReads says what the Emperor that follows, which is of this version, would
// find wrong with emperor.ini: it would not start, and none would be there.
func (a *app) nextReads(old int) error {
	path := defaultConfig
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", old))
	if err != nil {
		return fmt.Errorf("handover: the Emperor: %w", err)
	}
	words := strings.Split(string(args), "\x00")
	for i, w := range words {
		if v, ok := strings.CutPrefix(w, "--config="); ok {
			path = v
		} else if w == "--config" && i+1 < len(words) {
			path = words[i+1]
		}
	}
	if !filepath.IsAbs(path) { // to where that one was started
		path = filepath.Join(fmt.Sprintf("/proc/%d/cwd", old), path)
	}
	text, err := readRegular(path)
	if errors.Is(err, fs.ErrNotExist) && path == defaultConfig {
		return nil
	}
	if err != nil {
		return exitWith(exitConfig, vassal.CodeUnreadable, fmt.Sprintf("handover: %s: %s", path, plain(err)), "")
	}
	if _, ps := inifile.DecodeEmperor(path, text); ps.Failed() {
		return exitWith(exitConfig, vassal.CodeBadValue, "handover: the next Emperor would not start: "+ps.Error(), "liege check "+path)
	}
	return nil
}

// emperorPID is who made the control socket, and answers there.
func (a *app) emperorPID(ctx context.Context) (int, error) {
	socket := control.Socket(a.runDir)
	if err := control.Call(ctx, socket, control.Request{Verb: control.About, Timeout: 5 * time.Second}, func(control.Reply) error { return nil }); err != nil {
		return 0, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) { cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, optErr); err != nil {
		return 0, fmt.Errorf("who made %s: %w", socket, err)
	}
	if cred.Uid != 0 || cred.Pid <= 1 {
		return 0, fmt.Errorf("%s was made by process %d of uid %d, which is no Emperor", socket, cred.Pid, cred.Uid)
	}
	return int(cred.Pid), nil
}

// catches is the mask of the signals that a process has a handler for.
func catches(pid int) (uint64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("handover: the Emperor: %w", err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		if mask, ok := strings.CutPrefix(in.Text(), "SigCgt:"); ok {
			return strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("/proc/%d/status: no SigCgt", pid), in.Err())
}
