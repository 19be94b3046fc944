package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"liege/vassal"
	"liege/vassal/inifile"
)

// registration is one line of plugin list. Problem says why no vassal can use
// it.
type registration struct {
	Name        string  `json:"name"`
	File        string  `json:"file"`
	Family      string  `json:"family"`
	Interpreter string  `json:"interpreter"`
	Version     string  `json:"version"`
	ABI         string  `json:"abi"`
	Prefix      string  `json:"prefix"`
	Problem     *string `json:"problem"`
}

func (a *app) pluginListCmd() *cobra.Command {
	var dirs []string
	c := &cobra.Command{
		Use: "list", Short: "the interpreters that are registered",
		Long: "List the registrations in " + inifile.RegistrationDir + ", or in the directories that --plugins-dir names.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.pluginList(dirs) },
	}
	c.Flags().StringSliceVar(&dirs, "plugins-dir", []string{inifile.RegistrationDir}, "where registrations are; several times")
	return a.jsonFlag(c)
}

func (a *app) pluginList(dirs []string) error {
	all := []registration{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && dir == inifile.RegistrationDir) {
			return exitWith(exitNone, vassal.CodeUnreadable, fmt.Sprintf("%s: %s", dir, plain(err)), "--plugins-dir DIRECTORY")
		}
		for _, e := range entries {
			if name, ok := strings.CutSuffix(e.Name(), inifile.RegistrationSuffix); ok {
				all = append(all, readRegistration(name, filepath.Join(dir, e.Name())))
			}
		}
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(all)
	}
	if len(all) == 0 {
		fmt.Fprintf(a.out, "none in %s\n", strings.Join(dirs, ", "))
		printHint(a.out, "liege plugin build rack NAME --ruby /path/bin/ruby --plugins-dir "+dirs[0])
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tFAMILY\tVERSION\tINTERPRETER\tFILE")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, or(r.Family, "-"), or(r.Version, "-"), or(r.Interpreter, "-"), r.File)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range all {
		if r.Problem != nil {
			fmt.Fprintf(a.out, "%s: %s\n", r.File, *r.Problem)
		}
	}
	return nil
}

// readRegistration reads one, and looks whether its interpreter is there.
func readRegistration(name, file string) registration {
	r := registration{Name: name, File: file}
	text, err := readRegular(file)
	var g inifile.Registration
	if err == nil {
		g, err = inifile.ParseRegistration(text)
	}
	if err == nil {
		r.Family, r.Interpreter, r.Version, r.ABI, r.Prefix = g.Family, g.Interpreter, g.Version, g.ABI, g.Prefix
		fi, statErr := os.Stat(g.Interpreter)
		switch {
		case statErr != nil:
			err = fmt.Errorf("%s: %s", g.Interpreter, plain(statErr))
		case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
			err = fmt.Errorf("%s cannot be executed", g.Interpreter)
		}
	}
	if err != nil {
		why := plain(err)
		r.Problem = &why
	}
	return r
}
