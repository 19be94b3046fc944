package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"liege/vassal"
)

// sibling finds another program of Liege: beside this one, or in
// ../libexec/liege.
func sibling(program string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	dir := filepath.Dir(self)
	for _, p := range []string{filepath.Join(dir, program), filepath.Join(dir, "../libexec/liege", program)} {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", exitWith(exitFailed, vassal.CodeNotFound, fmt.Sprintf("%s is neither beside %s nor in ../libexec/liege", program, self), "make build, or install the package")
}

// become replaces this process by another program of Liege. It returns only
// an error.
func become(program string, args, env []string) error {
	path, err := sibling(program)
	if err != nil {
		return err
	}
	err = syscall.Exec(path, append([]string{program}, args...), env)
	if errors.Is(err, fs.ErrPermission) {
		return exitWith(exitDenied, vassal.CodeNotPermitted, "not permitted to run "+path, "")
	}
	return exitWith(exitFailed, vassal.CodeFailed, fmt.Sprintf("%s: %v", path, err), "")
}

func (a *app) emperorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "emperor [DIR…]",
		Short: "supervise the vassals of one or more directories, in the foreground",
		Long: `Supervise every *.ini file of the directories or patterns (default: those of
emperor.ini, else /etc/vassals), in the foreground.

  --config FILE        the operator's settings (default /etc/liege/emperor.ini)
  --run-dir DIR        sockets and records of what runs (default /run/liege)
  --log-dir DIR        the vassals' logs (default /var/log/liege)
  --state-dir DIR      what outlives a reboot (default /var/lib/liege)
  --cgroup PATH        of a delegated unit, for the vassals (default: the Emperor's own)
  --log-format FORMAT  of its own log: text or json

Signals: TERM and INT drain all vassals and exit; HUP reads emperor.ini again; USR2
exits and leaves the vassals to the next Emperor (liege handover).`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if arg == "-h" || arg == "--help" {
					return cmd.Help()
				}
			}
			if os.Geteuid() != 0 {
				return exitWith(exitDenied, vassal.CodeNeedsRoot, "emperor: needs root: it makes namespaces and cgroups", "liege serve FILE")
			}
			return become("liege-emperor", args, os.Environ())
		},
	}
}
