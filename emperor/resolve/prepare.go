package resolve

import (
	"context"
	"slices"

	"liege/vassal"
	"liege/vassal/inifile"
)

// Settings are what an Emperor, or liege check in its place, knows about every
// vassal.
type Settings struct {
	Policy inifile.Policy
	Read   inifile.ReadOptions
	INI    inifile.Host // for this file: with the owner's rights if it is a tenant's
	Host   Host
	NoHost bool // check --syntax: decode only
	// OnDemand is how emperor.ini says which vassals sleep; Runs allows its
	// program to be run: in the Emperor, not for liege check.
	OnDemand inifile.OnDemandSource
	Runs     bool
	Adjust   func(*inifile.File) // between the language and the table: liege serve names its flags; nil: nothing
}

// Prepared is one vassal file with all that a start needs to know.
type Prepared struct {
	Config   vassal.Config
	Result   *Result // nil after an error of the text, and with NoHost
	Queries  []inifile.Query
	Digest   vassal.Digest
	Problems vassal.Problems
}

// Prepare expands, decodes and resolves one vassal file: the one path from
// bytes to a plan, for a start as for check and explain. name is the one that
// the monitor found (CONTRACT 3).
func Prepare(ctx context.Context, name vassal.Name, src inifile.Source, s Settings) Prepared {
	f, problems := inifile.Read(src, s.INI, s.Read)
	broken := problems.Failed()
	if f == nil {
		return Prepared{Config: vassal.Config{Name: name, File: src.Path}, Problems: problems}
	}
	p := Prepared{Queries: f.Reads, Digest: f.Digest, Problems: problems}
	if s.Adjust != nil {
		s.Adjust(f)
	}
	if s.OnDemand.Key != "" && !s.NoHost {
		d, err := s.demand(ctx, name, src)
		if err != nil {
			p.Problems = append(p.Problems, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeListen, File: src.Path, Key: s.OnDemand.Key, Step: "check", Message: err.Error()})
		}
		s.Policy.OnDemand = d
	}
	cfg, more := inifile.Decode(f, s.Policy)
	cfg.Name = name
	p.Config, p.Problems = cfg, append(p.Problems, more...)
	if !(p.Problems.Failed() && cfg.App.Workers == nil && len(cfg.Listen) == 0 || s.NoHost) {
		// Resolve after errors too: all problems of a file are told at once.
		p.Result = Resolve(ctx, cfg, s.Host)
		p.Problems = append(p.Problems, p.Result.Problems...)
	}
	if broken {
		p.Problems = slices.DeleteFunc(p.Problems, missed)
	}
	return p
}

// missed reports a problem that only says that a line is not there: in a text
// that could not be read to its end it may well be.
func missed(p vassal.Problem) bool {
	switch p.Code {
	case vassal.CodeNothingToRun, vassal.CodeNoListener, vassal.CodeNoUID:
		return true
	}
	return false
}
