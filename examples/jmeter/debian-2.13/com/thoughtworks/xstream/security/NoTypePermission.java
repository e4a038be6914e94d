package com.thoughtworks.xstream.security;

/**
 * Lets Debian's JMeter 2.13 read its plans again.
 *
 * <p>JMeter reads a plan with XStream. Since 1.4.18 XStream creates no object of a class that the
 * program has not permitted. JMeter 2.13 is older than that rule and permits nothing; Debian 12
 * ships it with XStream 1.4.20, so every plan ends with {@code ForbiddenClassException}.
 *
 * <p>XStream keeps a list of permissions and asks them in turn. Last in its default list is the
 * permission of this name, the one that refuses everything. A class of the same name in front on
 * the class path is loaded in its place: it permits JMeter's own classes, and JOrphan's, the
 * utility library that JMeter's trees are made of. What it does not permit is still refused, by
 * XStream itself. Plans made with third-party plug-ins need the plug-in's package added below.
 *
 * <p>For trying things on Debian 12 only. A JMeter from its own project needs none of this.
 */
public class NoTypePermission implements TypePermission {
  /** XStream compares with this object to see that its list is to be cleared. */
  public static final TypePermission NONE = new NoTypePermission();

  @Override
  public boolean allows(Class type) {
    return type != null
        && (type.getName().startsWith("org.apache.jmeter.")
            || type.getName().startsWith("org.apache.jorphan."));
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof NoTypePermission;
  }

  @Override
  public int hashCode() {
    return NoTypePermission.class.hashCode();
  }
}
