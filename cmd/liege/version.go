package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"liege/emperor/control"
)

func (a *app) versionCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "version", Short: "of this program, and of the Emperor that runs",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var running control.Reply
			err := control.Call(cmd.Context(), control.Socket(a.runDir), control.Request{Verb: control.About, Timeout: 5 * time.Second}, func(r control.Reply) error {
				running = r
				return nil
			})
			if a.json {
				out := map[string]any{"version": version, "go": runtime.Version(), "emperor": nil, "restart_needed": false}
				if err == nil {
					out["emperor"], out["restart_needed"] = running.Version, running.Version != version
				}
				return json.NewEncoder(a.out).Encode(out)
			}
			fmt.Fprintf(a.out, "liege %s (%s)\n", version, runtime.Version())
			switch {
			case err != nil && control.ExitCode(err) == exitNoEmperor:
				fmt.Fprintln(a.out, "no Emperor runs at", a.runDir)
			case err != nil: // that is about the Emperor; the question was answered
				fmt.Fprintln(a.out, "the Emperor that runs is not known:", err)
			case running.Version != version:
				fmt.Fprintf(a.out, "the Emperor that runs is %s: another than this binary\n  hint: liege handover\n", running.Version)
			default:
				fmt.Fprintln(a.out, "the Emperor that runs is the same")
			}
			return nil
		},
	}
	return a.controlFlags(c)
}
