package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"liege/emperor/expand"
	"liege/emperor/launch"
	"liege/emperor/resolve"
	"liege/selinux"
	"liege/vassal"
	"liege/vassal/inifile"
)

// defaultConfig is read if it exists.
const defaultConfig = "/etc/liege/emperor.ini"

// load reads emperor.ini and lets the flags win. Warnings come beside the
// configuration.
func load(f flags) (inifile.EmperorConfig, vassal.Problems, error) {
	cfg := inifile.DefaultEmperorConfig()
	var ps vassal.Problems
	path := cmp.Or(f.config, defaultConfig)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.config == "":
	case err != nil:
		return cfg, nil, &exitError{exitConfig, "", err}
	default:
		cfg, ps = inifile.DecodeEmperor(path, text)
		if ps.Failed() {
			return cfg, nil, &exitError{exitConfig, ps.First().Hint, ps}
		}
	}
	for _, o := range []struct {
		flag string
		to   *string
	}{{f.runDir, &cfg.RunDir}, {f.logDir, &cfg.LogDir}, {f.stateDir, &cfg.StateDir}, {f.cgroup, &cfg.Cgroup}, {f.logFormat, &cfg.LogFormat}} {
		if o.flag != "" {
			*o.to = o.flag
		}
	}
	for _, p := range []*string{&cfg.RunDir, &cfg.LogDir, &cfg.StateDir} {
		if *p, err = filepath.Abs(*p); err != nil {
			return cfg, nil, err
		}
	}
	if len(f.dirs) > 0 {
		cfg.Vassals = f.dirs
	}
	return cfg, ps, nil
}

// newLog is the Emperor's own log, on stderr.
func newLog(format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// host is what is known about this machine for as long as the Emperor runs.
type host struct {
	auto   *resolve.AutoUIDs
	policy *selinux.Policy // nil: off
	off    error           // why it is
}

func newHost(stateDir string) (*host, error) {
	h := &host{auto: resolve.NewAutoUIDs(filepath.Join(stateDir, "auto-uid.json"), 0)}
	var err error
	if h.policy, err = selinux.Load(); err != nil {
		if !errors.Is(err, selinux.ErrOff) {
			return nil, fmt.Errorf("SELinux: %w", err)
		}
		h.policy, h.off = nil, err
	}
	return h, nil
}

// own is the SELinux context of this process; empty: SELinux is off.
func (h *host) own() string {
	if h.policy == nil {
		return ""
	}
	return h.policy.Own()
}

// holdUID is the user of every holding generation: allotted as to a vassal, so
// it is never anybody else's.
func (h *host) holdUID() (int, error) { return h.auto.UID(launch.HoldName) }

// context is the canonical form of a context that a vassal may enter.
func (h *host) context(c string) (string, error) {
	if h.policy == nil {
		return "", h.off
	}
	return h.policy.Enter(h.policy.Own(), c)
}

// settings are what every vassal's file is expanded with.
func (h *host) settings(cfg inifile.EmperorConfig) expand.Settings {
	s := resolve.FromEmperor(cfg, inifile.NewOSHost(os.LookupEnv))
	s.Read.Version = version
	s.Host.AutoUID = h.auto.UID
	s.Host.Context = h.context
	return expand.Settings{Prepare: s, MemoryCeiling: int64(cfg.Policy.MemoryMax.Value)}
}
