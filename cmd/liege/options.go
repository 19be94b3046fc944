package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"liege/vassal"
	"liege/vassal/inifile"
)

func (a *app) optionsCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "options [KEY]", Short: "the options of a vassal file: type, unit, default, class, who may use them",
		Args: usage(cobra.MaximumNArgs(1)),
		ValidArgsFunction: func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, o := range inifile.Options() {
				if strings.HasPrefix(o.Name, prefix) {
					out = append(out, o.Name+"\t"+o.Doc)
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.option(args[0])
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(allOptions())
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			group := ""
			for _, o := range inifile.Options() {
				if o.Group != group {
					group = o.Group
					w.Flush()
					fmt.Fprintf(w, "\n%s\n", group)
				}
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", o.Name, o.Type, o.Class, o.Doc)
			}
			section := ""
			for _, o := range inifile.EmperorOptions() {
				if o.Section != section {
					section = o.Section
					w.Flush()
					fmt.Fprintf(w, "\n[%s] of emperor.ini\n", section)
				}
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", o.Name, o.Type, or(o.Default, "-"), o.Doc)
			}
			return w.Flush()
		},
	}
	return a.jsonFlag(c)
}

func emperorRow(o inifile.EmperorOption) inifile.Option {
	return inifile.Option{Name: o.Name, Group: "emperor.ini", Type: o.Type, Default: o.Default, Many: o.Many, Class: inifile.Works, Since: "liege", Doc: o.Doc, Section: o.Section}
}

// allOptions are those of vassal files and of emperor.ini.
func allOptions() []inifile.Option {
	all := slices.Clone(inifile.Options())
	for _, o := range inifile.EmperorOptions() {
		all = append(all, emperorRow(o))
	}
	return all
}

// emperorOption shows what key is in emperor.ini, and returns how often it is
// there.
func (a *app) emperorOption(key string) (n int) {
	for _, o := range inifile.EmperorOptions() {
		if o.Name != key {
			continue
		}
		n++
		fmt.Fprintf(a.out, "%s in [%s] of emperor.ini: %s\n\n  type      %s\n", o.Name, o.Section, o.Doc, o.Type)
		if o.Default != "" {
			fmt.Fprintf(a.out, "  default   %s\n", o.Default)
		}
		fmt.Fprintf(a.out, "  lines     %s\n\n", lines(o.Many))
	}
	return n
}

func lines(many bool) string {
	if many {
		return "every one counts, in order"
	}
	return "the last one wins"
}

// option shows one row of the table.
func (a *app) option(key string) error {
	o, ok := inifile.Lookup(key)
	i := slices.IndexFunc(inifile.EmperorOptions(), func(o inifile.EmperorOption) bool { return o.Name == key })
	switch {
	case a.json && ok:
		return json.NewEncoder(a.out).Encode(*o)
	case a.json && i >= 0:
		return json.NewEncoder(a.out).Encode(emperorRow(inifile.EmperorOptions()[i]))
	case !ok && a.emperorOption(key) > 0:
		return nil
	case !ok:
		hint := "liege options"
		if near := inifile.Nearest(key); near != "" {
			hint = "liege options " + near
		}
		return exitWith(exitNone, vassal.CodeUnknownOption, "no such option or command: "+key, hint)
	}
	fmt.Fprintf(a.out, "%s: %s\n\n", o.Name, o.Doc)
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	line := func(head, text string) {
		if text != "" {
			fmt.Fprintf(w, "  %s\t%s\n", head, text)
		}
	}
	line("also", strings.Join(o.Alias(), ", "))
	line("type", string(o.Type)+ifs(o.Unit != "" && o.Unit != string(o.Type), ", in "+o.Unit))
	line("default", o.Default)
	line("empty is", o.Empty)
	line("lines", lines(o.Many))
	line("class", string(o.Class))
	line("", o.Effect)
	line("tenants", map[bool]string{true: "may use it", false: "may not use it"}[o.Tenant])
	line("path", string(o.Path))
	line("plugin", o.Plugin)
	line("since", o.Since)
	if err := w.Flush(); err != nil {
		return err
	}
	if i >= 0 {
		fmt.Fprintln(a.out)
		a.emperorOption(key)
	}
	return nil
}
