// Package policy makes, proves and installs the SELinux policy of Liege: the
// base module liege and one module per application, webapp_ID.
//
//	m, err := policy.New(policy.App{ID: "shop", Paths: …, Ports: …, Allow: …})
//	err = m.Write(dir)                    // webapp_shop.cil, webapp_shop.fc
//	store, err := policy.Open(policy.Config{Root: "/"})
//	err = store.Check(ctx, m)             // compiled with the installed policy
//	report, err := store.Install(ctx, m)  // loaded, files labelled
//	report, err = store.Remove(ctx, "shop")
//
// # What is proved
//
// The modules hold neverallow rules, and Check has the compiler (secilc) hold
// them against everything that is installed: no rule, whoever wrote it, lets
// the domain of one application reach the files, processes or sockets of
// another, and none but liege_stage_t enters an application's domain.
//
// # What it promises
//
// Install and Remove write down each step before they take it. One that was
// killed, or ran out of disk, is undone or finished by the next Install or
// Remove of that application; until then nothing is left that keeps other
// programs from changing the policy.
package policy
