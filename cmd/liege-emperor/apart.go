package main

import (
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"liege/emperor/dirmon"
	"liege/emperor/resolve"
	"liege/vassal/inifile"
)

// apart keeps the vassal of --one from those of the host's Emperor, which may run
// meanwhile and remembers elsewhere what it allots: its directories stay its own, and
// what is allotted here begins where it does not get to. Zero: this is that Emperor.
type apart struct {
	nat, uid, pair int
	dirs           []string // of the host's Emperor
	runDirs        []string // nil: no --one
	named          bool     // the file is one of its vassals, with the same name
}

// apartFrom is what the vassal of the file at path has apart from those of host.
// It is the same at the next time, so that its files stay its own.
func apartFrom(host inifile.EmperorConfig, path string) apart {
	h := fnv.New32a()
	h.Write([]byte(path))
	n := int(h.Sum32())
	s := resolve.FromEmperor(host, nil)
	return apart{
		nat:  1<<(31-host.NATPool.Bits()) + os.Getpid()%(1<<(30-host.NATPool.Bits())),
		uid:  2_100_000_000 + n%40_000_000, // some file systems and programs take 31 bits
		pair: resolve.MaxPairs/2 + n%(resolve.MaxPairs/2-8),
		dirs: s.Host.Reserved, runDirs: s.Host.RunDirs,
		named: dirmon.Named(path, host.Vassals) && dirmon.NameOf(path, host.Vassals) == strings.TrimSuffix(filepath.Base(path), ".ini"),
	}
}

// set makes s what it is for the vassal of --one.
func (a apart) set(s *resolve.Settings) {
	if a.runDirs == nil {
		return
	}
	if !a.named { // the socket would have the name of another
		s.OnDemand = inifile.OnDemandSource{}
	}
	h := &s.Host
	h.Reserved, h.RunDirs = slices.Concat(h.Reserved, a.dirs), slices.Concat(a.runDirs, h.RunDirs)
	h.Alone, h.Nameless = true, !a.named
}
