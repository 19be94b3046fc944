package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"liege/policy"
)

// policyCmd is SELinux policy: the base module and one module per app.
func (a *app) policyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "SELinux policy modules, one per app",
		Long: "Make, prove, install and remove the SELinux policy module of an app: docs/selinux.md.\n\n" +
			"  liege policy new shop --path /srv/shop:ro --path /srv/shop/var:rw --allow db\n" +
			"  liege policy check shop\n" +
			"  liege policy install shop",
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args: noSuchCommand,
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(a.policyNewCmd(), a.policyBaseCmd())
	c.AddCommand(a.policyCmds()...)
	return c
}

func (a *app) policyNewCmd() *cobra.Command {
	var paths []string
	var dir string
	var force bool
	var app policy.App
	c := &cobra.Command{
		Use: "new ID", Short: "write the module of an app, webapp_ID.cil, and its file contexts, webapp_ID.fc",
		Long: "Write webapp_ID.cil and webapp_ID.fc, to be read, changed, checked and installed. ID is the vassal's name.\n" +
			"Services for --allow:\n\n" + allowanceTable(),
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			app.ID = args[0]
			for _, s := range paths {
				p, err := policy.ParsePath(s)
				if err != nil {
					return policyError(err)
				}
				app.Paths = append(app.Paths, p)
			}
			m, err := policy.New(app)
			if err != nil {
				return policyError(err)
			}
			if err := m.Write(dir, force); err != nil {
				return policyError(err)
			}
			cil, fc := m.Files()
			fmt.Fprintf(a.out, "%s\n%s\n", filepath.Join(dir, cil), filepath.Join(dir, fc))
			return nil
		},
	}
	f := c.Flags()
	f.StringArrayVar(&paths, "path", nil, "DIR[:ro|rw|log|config|run]: a path of the app (ro: read and execute)")
	f.IntSliceVar(&app.Ports, "port", nil, "a TCP port of its own")
	f.StringSliceVar(&app.Allow, "allow", nil, "whom it may connect to")
	f.BoolVar(&app.MCS, "mcs", false, "one module for many tenants, parted by categories")
	f.StringVarP(&dir, "output", "o", ".", "the directory to write to")
	f.BoolVar(&force, "force", false, "replace files that are there")
	return c
}

func allowanceTable() string {
	var s string
	for _, x := range policy.Allowances() {
		s += fmt.Sprintf("  %-9s %s\n", x.Name, x.Text)
	}
	return s
}

func (a *app) policyBaseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "base", Short: "print the base module, as semodule -i takes it",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.raw.out.Write(policy.Base().CIL)
			return err
		},
	}
}
