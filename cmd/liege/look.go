package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/control"
	"liege/vassal"
)

// name is a vassal's name as typed: a file name and a path will do.
func name(arg string) string { return strings.TrimSuffix(path.Base(arg), ".ini") }

func names(args []string) []string {
	var out []string
	for _, a := range args {
		out = append(out, name(a))
	}
	return out
}

// vassals asks for those that match.
func (a *app) vassals(cmd *cobra.Command, verb control.Verb, args []string) ([]control.Vassal, error) {
	out := []control.Vassal{}
	var missing vassal.Problems
	req := control.Request{Verb: verb, Names: names(args), All: len(args) == 0}
	err := control.Call(cmd.Context(), control.Socket(a.runDir), req, func(r control.Reply) error {
		if r.Vassal != nil {
			out = append(out, *r.Vassal)
		} else if r.Problem != nil {
			missing = append(missing, *r.Problem)
		}
		return nil
	})
	if len(missing) > 0 && err != nil {
		err = &exit{code: control.ExitCode(err), problems: missing}
	}
	slices.SortFunc(out, func(x, y control.Vassal) int { return strings.Compare(x.Name, y.Name) })
	return out, err
}

func (a *app) lsCmd() *cobra.Command {
	var states []string
	c := &cobra.Command{
		Use: "ls [PATTERN…]", Aliases: []string{"list"}, Short: "the vassals and their states",
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, s := range states {
				if !slices.Contains(allStates, control.State(s)) {
					return usageError("ls: --state "+s+": no such state", strings.Trim(fmt.Sprint(allStates), "[]"))
				}
			}
			all, err := a.vassals(cmd, control.List, args)
			if err != nil {
				return err
			}
			if len(states) > 0 {
				all = slices.DeleteFunc(all, func(v control.Vassal) bool { return !slices.Contains(states, string(v.State)) })
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(all)
			}
			a.table(all)
			return nil
		},
	}
	c.Flags().StringSliceVar(&states, "state", nil, "only those in these states, separated by commas")
	return a.controlFlags(c)
}

// allStates are those of CONTRACT 16, as people want to see them.
var allStates = []control.State{control.Running, control.Starting, control.Draining, control.Backoff, control.Failed, control.Stopped, control.Suspended, control.Sleeping}

// table is the form of ls and of status without a name.
func (a *app) table(all []control.Vassal) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	if len(all) > 0 {
		fmt.Fprintln(w, "NAME\tSTATE\tFOR\tGEN\tUSER\tMEMORY\tREQUESTS\tLISTENS")
	}
	counts := map[control.State]int{}
	var mem int64
	for _, v := range all {
		counts[v.State]++
		mem += deref(v.MemoryBytes)
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%d\t%s\n", v.Name, stateText(v), age(v.Since.Time), v.Generation,
			or(deref(v.User), uidText(v)), size(v.MemoryBytes), v.Requests, strings.Join(v.Listen, " "))
	}
	w.Flush()
	for _, v := range all {
		if v.Error != nil {
			fmt.Fprintf(a.out, "%s: %s\n", v.Name, v.Error.Error())
			printHint(a.out, v.Error.Hint)
		}
	}
	var parts []string
	for _, s := range allStates {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	if len(parts) == 0 {
		parts = []string{"none"}
	}
	fmt.Fprintf(a.out, "%d %s: %s; %s\n", len(all), plural(len(all), "vassal", "vassals"), strings.Join(parts, ", "), size(&mem))
}

// stateText says more than the state where there is more: a running vassal
// whose file is not what runs.
func stateText(v control.Vassal) string {
	switch {
	case v.State == control.Running && v.Pending != nil:
		return "running, " + v.Pending.State + " " + fmt.Sprint(v.Pending.Generation)
	case v.State == control.Running && !v.Applied:
		return "running, old"
	case v.State == control.Starting && v.Pending != nil && v.Pending.State == "queued":
		return "starting, queued"
	}
	return string(v.State)
}

func (a *app) statusCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "status [NAME]", Short: "all there is to know about one vassal, or about all",
		Args: usage(cobra.MaximumNArgs(1)), ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := a.vassals(cmd, control.Status, args)
			if err != nil {
				return err
			}
			switch {
			case len(args) == 1 && len(all) == 0:
				return exitWith(exitNone, vassal.CodeNoSuchVassal, "no such vassal: "+args[0], "liege ls")
			case a.json && len(args) == 1:
				return json.NewEncoder(a.out).Encode(all[0])
			case a.json:
				return json.NewEncoder(a.out).Encode(all)
			case len(args) == 0:
				a.table(all)
				return nil
			}
			for _, v := range all {
				a.one(cmd.Context(), v)
			}
			return nil
		},
	}
	return a.controlFlags(c)
}

// one is status of one vassal for people.
func (a *app) one(ctx context.Context, v control.Vassal) {
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	row := func(head, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); strings.TrimSpace(text) != "" {
			fmt.Fprintf(w, "%s\t%s\n", head, text)
		}
	}
	row(v.Name, "%s for %s", stateText(v), age(v.Since.Time))
	row("file", "%s", v.File)
	if v.PID != nil {
		row("generation", "%d, pid %d", v.Generation, *v.PID)
	} else {
		row("generation", "%d", v.Generation)
	}
	if v.RetryAt != nil {
		row("next try", "in %s", time.Until(v.RetryAt.Time).Round(time.Second))
	}
	row("runs as", "%s", or(deref(v.User), uidText(v)))
	row("domain", "%s", deref(v.Context))
	row("listens", "%s", strings.Join(v.Listen, "  "))
	row("network", "%s", networkText(v))
	row("memory", "%s%s", size(v.MemoryBytes), of(v.MemoryMaxBytes, size))
	if v.NetSent > 0 || v.NetReceived > 0 {
		row("traffic", "%s sent, %s received", size(&v.NetSent), size(&v.NetReceived))
	}
	row("processes", "%s%s", count(v.Pids), of(v.PidsMax, count))
	if v.DiskBytes != nil {
		row("disk", "%s%s, %s%s files", size(v.DiskBytes), of(v.DiskMaxBytes, size), count(v.DiskInodes), of(v.DiskInodesMax, count))
	}
	row("limits met", "%s", metText(v))
	row("requests", "%d", v.Requests)
	row("restarts", "%d", v.Restarts)
	if v.LastExit != nil {
		row("last exit", "%s", exitText(*v.LastExit))
	}
	if v.Suspended != nil {
		row("suspended", "%s, by %s", strings.TrimSpace(fmt.Sprintf("%d %s", v.Suspended.Status, v.Suspended.Reason)), v.Suspended.By)
	}
	row("stopped by", "%s", deref(v.StoppedBy))
	row("log", "%s", deref(v.Log))
	w.Flush()
	hints := slices.DeleteFunc(a.hints(ctx, v), func(h string) bool {
		return slices.ContainsFunc(v.Problems, func(p vassal.Problem) bool { return p.Hint == h })
	})
	for _, p := range v.Problems {
		if p.Severity == vassal.Note {
			continue
		}
		fmt.Fprintf(a.out, "\n%s  %s\n", p.Severity, p.Error())
		if p.Hint == "" && p.Severity == vassal.Error {
			p.Hint, hints = strings.Join(hints, "\n"), nil
		}
		printHint(a.out, p.Hint)
	}
	if len(hints) > 0 {
		fmt.Fprintln(a.out)
		printHint(a.out, strings.Join(hints, "\n"))
	}
	for _, p := range v.Problems {
		if p.Code == vassal.CodeLastLines {
			fmt.Fprintf(a.out, "\nwhat it printed last:\n  %s\n", strings.ReplaceAll(p.Message, "\n", "\n  "))
		}
	}
	if v.State == control.Running && !v.Applied {
		fmt.Fprintln(a.out, "\nThe file on disk is not what runs: the last good generation still serves.")
	}
}

func exitText(e control.Exit) string {
	what, r := "its code is not known", deref(e.Reason)
	switch {
	case deref(e.Signal) != "":
		what = *e.Signal
	case e.Code != nil:
		what = fmt.Sprintf("code %d", *e.Code)
	case r != "": // it says so too
		what, r = r, ""
	}
	if e.OOM {
		what += ", out of memory"
	}
	if r != "" {
		what += ": " + r
	}
	return what + ", " + age(e.At.Time) + " ago"
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func ifs(cond bool, s string) string {
	if cond {
		return s
	}
	return ""
}

func of(p *int64, f func(*int64) string) string {
	if p == nil || *p <= 0 {
		return ""
	}
	return " of " + f(p)
}

func uidText(v control.Vassal) string {
	if v.UID == nil {
		return "-"
	}
	return fmt.Sprint(*v.UID)
}

func count(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// size is bytes for people: 3.2M.
func size(n *int64) string {
	if n == nil {
		return "-"
	}
	f, unit := float64(*n), 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", *n)
	}
	return fmt.Sprintf("%.1f%c", f, "BKMGT"[unit])
}

// age is how long ago t was, in its two largest units.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(time.Since(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// completeNames completes the names of vassals, when an Emperor answers.
func (a *app) completeNames(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	err := control.Call(cmd.Context(), control.Socket(a.runDir), control.Request{Verb: control.List, All: true, Timeout: 2 * time.Second}, func(r control.Reply) error {
		if r.Vassal != nil && strings.HasPrefix(r.Vassal.Name, prefix) {
			out = append(out, r.Vassal.Name+"\t"+string(r.Vassal.State))
		}
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// networkText says what a vassal may connect to (CONTRACT 5).
func networkText(v control.Vassal) string {
	switch net := deref(v.Net); {
	case net == "", net == "host":
		return net
	case len(v.Connect) == 0:
		return net + ", may connect to: nothing"
	case len(v.Addresses) > 0:
		return net + ", " + strings.Join(v.Addresses, ", ") + ", may connect to: " + strings.Join(v.Connect, ", ")
	default:
		return net + ", may connect to: " + strings.Join(v.Connect, "  ")
	}
}

// metText says how often limits refused something, or held something up.
func metText(v control.Vassal) string {
	var words []string
	add := func(n int64, format string, arg any) {
		if n > 0 {
			words = append(words, fmt.Sprintf(format, arg))
		}
	}
	add(v.OOMKills, "%d killed for want of memory", v.OOMKills)
	add(v.MemorySlowed, "slowed %d times by memory-high", v.MemorySlowed)
	add(v.PidsRefused, "%d processes or threads refused by pids-max", v.PidsRefused)
	add(v.ThrottledUsec, "held up for %s by cpu-max", (time.Duration(v.ThrottledUsec) * time.Microsecond).Round(time.Millisecond))
	return strings.Join(words, ", ")
}
