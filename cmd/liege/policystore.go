package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"liege/policy"
	"liege/selinux"
	"liege/vassal"
)

// policyCmds are those that look at the installed policy, or change it.
func (a *app) policyCmds() []*cobra.Command {
	var root string
	check := &cobra.Command{
		Use: "check [ID|FILE.cil…]", Short: "compile modules with the installed policy and prove their assertions",
		Long: "Compile modules together with the installed policy, changing nothing, and prove that no rule lets one app\n" +
			"reach another and that only liege_stage_t enters an app's domain. ID is webapp_ID.cil here, else the module\n" +
			"that is installed. Without arguments: what is installed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.policyStore(root)
			if err != nil {
				return policyError(err)
			}
			modules, err := policyModules(s, args)
			if err != nil {
				return policyError(err)
			}
			if err := s.Check(cmd.Context(), modules...); err != nil {
				return policyError(err)
			}
			for _, m := range modules {
				fmt.Fprintf(a.out, "%s: ok\n", m.CILFile)
			}
			if len(modules) == 0 {
				fmt.Fprintln(a.out, "installed policy: ok")
			}
			return nil
		},
	}
	install := &cobra.Command{
		Use: "install [ID|FILE.cil]", Short: "load a module and label the app's files; undone if it fails",
		Long: "Check a module, load it, make its file contexts known and label the files at its paths. The base module\n" +
			"comes first if it is missing or of another version; without an argument it comes alone. What fails or is\n" +
			"interrupted is undone, at the latest by the next install or remove.",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.policyChange(root)
			if err != nil {
				return policyError(err)
			}
			m := policy.Base()
			if len(args) > 0 {
				if m, err = policyModule(s, args[0]); err != nil {
					return policyError(err)
				}
			}
			return policyError(s.Install(cmd.Context(), m))
		},
	}
	remove := &cobra.Command{
		Use: "remove ID", Short: "unload the module of an app and label its files as before",
		Long: "Take away the file contexts of an app, label its files as the policy has them without the module, and\n" +
			"unload it. Labels that were given by hand (chcon) elsewhere stay.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.policyChange(root)
			if err != nil {
				return policyError(err)
			}
			return policyError(s.Remove(cmd.Context(), args[0]))
		},
	}
	for _, c := range []*cobra.Command{check, install, remove} {
		c.Flags().StringVar(&root, "root", "/", "the tree of another system, such as an image that is being built")
		c.ValidArgsFunction = policyWords
	}
	return []*cobra.Command{check, install, remove}
}

// policyWords completes the modules that lie here.
func policyWords(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	files, err := filepath.Glob("webapp_*.cil")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, "webapp_"), ".cil")
	}
	return files, cobra.ShellCompDirectiveDefault
}

// policyStore opens the policy of a tree, or of this system.
func (a *app) policyStore(root string) (*policy.Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	return policy.Open(policy.Config{
		Root: abs, Live: abs == "/" && selinux.CurrentMode() != selinux.Off,
		Note: func(s string) { fmt.Fprintln(a.out, s) },
	})
}

// policyChange is policyStore for root, who changes it.
func (a *app) policyChange(root string) (*policy.Store, error) {
	if os.Geteuid() != 0 {
		return nil, exitWith(exitDenied, vassal.CodeNotPermitted, "policy: needs root: it changes the system's policy", "sudo liege policy …")
	}
	if root == "" {
		return nil, usageError("policy: --root: which directory?", "")
	}
	return a.policyStore(root)
}

// policyModules are the modules that arguments name.
func policyModules(s *policy.Store, args []string) ([]policy.Module, error) {
	var all []policy.Module
	var ps vassal.Problems
	for _, arg := range args {
		m, err := policyModule(s, arg)
		if err != nil {
			ps = append(ps, vassal.AsProblems(err, "", vassal.CodeBadPolicy)...)
			continue
		}
		all = append(all, m)
	}
	if len(ps) > 0 {
		return nil, ps
	}
	return all, nil
}

// policyModule is a file, or the module of an ID: here, else the installed one.
func policyModule(s *policy.Store, arg string) (policy.Module, error) {
	if strings.ContainsRune(arg, '/') || filepath.Ext(arg) == ".cil" {
		return policy.Read(arg)
	}
	if err := policy.CheckID(arg); err != nil {
		return policy.Module{}, err
	}
	m, err := policy.Read(policy.ModuleName(arg) + ".cil")
	if !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	installed, err := s.Installed(arg)
	if err != nil {
		return m, err
	}
	if installed == nil {
		return m, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoModule, Message: arg + ": neither " + policy.ModuleName(arg) + ".cil here nor a module that is installed", Hint: "liege policy new " + arg}
	}
	return *installed, nil
}
