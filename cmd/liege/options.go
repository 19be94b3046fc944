package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

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
				return json.NewEncoder(a.out).Encode(inifile.Options())
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
			return w.Flush()
		},
	}
	return a.jsonFlag(c)
}

// option shows one row of the table.
func (a *app) option(key string) error {
	o, ok := inifile.Lookup(key)
	if !ok {
		hint := "liege options"
		if near := inifile.Nearest(key); near != "" {
			hint = "liege options " + near
		}
		return exitWith(exitNone, "unknown-option", "no such option or command: "+key, hint)
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(*o)
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
	line("lines", map[bool]string{true: "every one counts, in order", false: "the last one wins"}[o.Many])
	line("class", string(o.Class))
	line("", o.Effect)
	line("tenants", map[bool]string{true: "may use it", false: "may not use it"}[o.Tenant])
	line("path", string(o.Path))
	line("plugin", o.Plugin)
	line("since", o.Since)
	return w.Flush()
}
