// Package vm boots real systems in QEMU, without KVM, and runs test binaries
// in them: what needs systemd, another kernel, or SELinux in force.
//
// Two kinds of machine exist:
//
//   - A system is Debian with systemd, its default SELinux policy enforcing,
//     and our package. Base unpacks Debian once into the user's cache; Build adds
//     packages, policy modules and files to a copy of it, labels it and makes a
//     disk of it. The last disk is kept for who asks for the same.
//   - A micro machine is a kernel and an initramfs whose /init is ours
//     (Initramfs). It answers questions to the kernel within seconds.
//
// Machine.Run boots either. What runs inside is an ordinary Go test binary
// (packages guest and kernel below this one), compiled here and copied. Its
// output comes back line by line through a port of its own, not the console,
// and ends with its exit status. A machine that panics, that does not come up,
// or that ends early is an error which says so and holds the console's tail.
//
// Everything is made in one work directory below the cache, under a lock that
// dies with its process: what a killed run left is removed by the next.
package vm
