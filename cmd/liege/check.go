package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"liege/emperor/listen"
	"liege/vassal"
)

// checkOptions are the flags of check and explain.
type checkOptions struct {
	as      string
	tenant  string
	config  string
	syntax  bool
	strict  bool
	secrets bool
}

func (o *checkOptions) flags(c *cobra.Command, check bool) {
	f := c.Flags()
	f.StringVar(&o.as, "as", "", "take name and %-variables from this path")
	f.StringVar(&o.tenant, "tenant", "", "as if this user owned the file")
	f.StringVar(&o.config, "config", "", "the operator's settings (default "+defaultConfig+", if there)")
	if check {
		f.BoolVar(&o.syntax, "syntax", false, "ask no host: for CI")
		f.BoolVar(&o.strict, "strict", false, "exit 78 with any warning too")
	}
}

func (a *app) checkCmd() *cobra.Command {
	var o checkOptions
	c := &cobra.Command{
		Use: "check FILE|DIR…|-", Short: "every problem of vassal files at once; starts nothing",
		Long: "Check vassal files as a start would, binding and starting nothing. Of a directory, also find what\nclashes between its files and say what is skipped; with --config, also what an Emperor of these\nsettings would refuse because of who owns it or may write it. - reads standard input. An\nemperor.ini is checked as one.",
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.newLoader(o)
			if slices.Equal(args, []string{or(o.config, defaultConfig)}) {
				l, err = &loader{app: a, opts: o}, nil // what is wrong with it is the answer
			}
			if err != nil {
				return err
			}
			var all []checked
			for _, arg := range args {
				more, err := l.files(cmd.Context(), arg)
				if err != nil {
					return err
				}
				if len(more) == 0 && !a.json {
					fmt.Fprintf(a.out, "%s: no vassal files: names that end in .ini and do not begin with a dot\n", arg)
				}
				all = append(all, more...)
			}
			clashes(all)
			return a.report(all, o.strict)
		},
	}
	o.flags(c, true)
	return a.jsonFlag(c)
}

// report prints what was found and returns the exit code as an error.
func (a *app) report(all []checked, strict bool) error {
	errors, warnings := 0, 0
	for i := range all {
		all[i].Problems = nonNil(all[i].Problems)
		for _, p := range all[i].Problems {
			switch p.Severity {
			case vassal.Error:
				errors++
			case vassal.Warning:
				warnings++
			}
		}
	}
	bad := errors > 0 || strict && warnings > 0
	if a.json {
		if err := json.NewEncoder(a.out).Encode(map[string]any{"ok": !bad, "files": nonNil(all)}); err != nil {
			return err
		}
	} else {
		a.reportText(all, errors, warnings)
	}
	if bad {
		return &exit{code: exitConfig, shown: true}
	}
	return nil
}

func (a *app) reportText(all []checked, errors, warnings int) {
	for _, f := range all {
		for _, p := range f.Problems {
			if p.Severity == vassal.Note {
				continue
			}
			if p.File == "" {
				p.File = f.File
			}
			fmt.Fprintf(a.out, "%s: %s\n", p.Severity, p.Error())
			printHint(a.out, p.Hint)
		}
	}
	if errors+warnings > 0 {
		fmt.Fprintf(a.out, "%d %s: %d %s, %d %s\n", len(all), plural(len(all), "file", "files"),
			errors, plural(errors, "error", "errors"), warnings, plural(warnings, "warning", "warnings"))
		return
	}
	for _, f := range all {
		fmt.Fprintf(a.out, "%s: ok\n", f.File)
	}
}

// clashes finds listeners that two of the files name, or one file twice: the same
// address, or one of which the other is a part.
func clashes(all []checked) {
	type holder struct {
		file    string
		line    int
		address string
		tcp     netip.AddrPort // not valid for others
	}
	first := map[string][]holder{} // by port, or by address
	for i := range all {
		r := all[i].result
		if r == nil {
			continue
		}
		for _, l := range r.Listen {
			own := holder{file: all[i].File, line: l.At.Line, address: l.Address}
			key := l.Address
			if tcp, err := netip.ParseAddrPort(l.Address); err == nil {
				if tcp.Port() == 0 {
					continue // each gets its own
				}
				own.tcp, key = tcp, strconv.Itoa(int(tcp.Port()))
			}
			n := slices.IndexFunc(first[key], func(o holder) bool {
				if o.address == own.address { // of one file that is said where it is read
					return o.file != own.file
				}
				return listen.Overlap(o.tcp, own.tcp)
			})
			if n < 0 {
				first[key] = append(first[key], own)
				continue
			}
			h := first[key][n]
			msg := fmt.Sprintf("%s is named by %s:%d too", l.Address, h.file, h.line)
			if h.address != l.Address {
				msg = fmt.Sprintf("%s overlaps with %s, which %s:%d names", l.Address, h.address, h.file, h.line)
			}
			all[i].Problems = append(all[i].Problems, vassal.Problem{
				Severity: vassal.Error, Code: vassal.CodeListenInUse, File: all[i].File, Line: l.At.Line, Key: l.Key,
				Message: msg,
			})
		}
	}
}
