package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"liege/emperor/dirmon"
	"liege/emperor/expand"
	"liege/emperor/launch"
	"liege/emperor/resolve"
	"liege/sandbox/network"
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
			return cfg, nil, &exitError{exitConfig, "liege check " + path, ps}
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
	if f.apart.runDirs != nil {
		cfg.Cgroup, cfg.Vassals, cfg.Hooks = f.cgroup, nil, nil // those of emperor.ini are the Emperor's
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
	apart   apart
	auto    *resolve.AutoUIDs
	nat     *resolve.Addresses
	policy  *selinux.Policy // nil: off
	domains selinux.Domains
	pairs   *resolve.Pairs
	stage   string // programs on the host, whose labels say what may be entered by them
	core    string
}

func newHost(cfg inifile.EmperorConfig, a apart, stage, core string) (*host, error) {
	stateDir := cfg.StateDir
	h := &host{
		apart: a,
		nat:   resolve.NewAddresses(filepath.Join(stateDir, resolve.AddressesFile), cfg.NATPool, cfg.NATPool6, a.nat),
		auto:  resolve.NewAutoUIDs(filepath.Join(stateDir, "auto-uid.json"), a.uid),
		pairs: resolve.NewPairs(filepath.Join(stateDir, resolve.PairsFile), a.pair),
		stage: stage, core: core,
	}
	var err error
	if h.policy, err = selinux.Load(); err == nil {
		h.domains, err = h.policy.Domains()
	}
	if errors.Is(err, selinux.ErrOff) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("SELinux: %w", err)
	}
	return h, nil
}

// holdUID is the user of every holding generation: allotted as to a vassal, so
// it is never anybody else's.
func (h *host) holdUID() (int, error) { return h.auto.UID(launch.HoldName) }

// natAddress implements resolve.Host.NATAddress.
func (h *host) natAddress(name vassal.Name) (v4, v6 netip.Addr, no6 string, err error) {
	v4, v6, err = h.nat.Of(name)
	if why := network.IPv6(); why != nil {
		v6, no6 = netip.Addr{}, why.Error()
	} else if !v6.IsValid() {
		no6 = "nat-pool6 = no"
	}
	return v4, v6, no6, err
}

// enter implements resolve.SELinux.Enter. The policy is asked at each start,
// since modules come and go while the Emperor runs.
func (h *host) enter(context string, byExec bool) (string, error) {
	if h.policy == nil {
		if context == "" {
			return "", nil
		}
		return "", selinux.ErrOff
	}
	if h.domains.Stage != h.domains.Emperor {
		entry, err := selinux.PathContext(h.stage)
		if err != nil {
			return "", err
		}
		if err := h.policy.Starts(h.domains.Emperor, entry, h.domains.Stage); err != nil {
			return "", err
		}
	}
	if context == "" && h.domains.Default == "" {
		return "", nil
	}
	return h.policy.Reach(selinux.Target{From: h.domains.Stage, Core: h.core, Default: h.domains.Default}, context, byExec)
}

// settings are what every vassal's file is expanded with.
func (h *host) settings(cfg inifile.EmperorConfig) expand.Settings {
	s := resolve.FromEmperor(cfg, dirmon.Host{OSHost: inifile.NewOSHost(os.LookupEnv)})
	s.Read.Version, s.Runs = version, true
	s.Host.AutoUID = h.auto.UID
	s.Host.NATAddress = h.natAddress
	s.Host.SELinux.Enter, s.Host.SELinux.Categories = h.enter, h.pairs.Pair
	h.apart.set(&s)
	return expand.Settings{Prepare: s, Ceilings: vassal.Ceilings{
		MemoryMax: int64(cfg.Policy.MemoryMax.Value), PidsMax: int64(cfg.Policy.PidsMax.Value),
	}}
}
