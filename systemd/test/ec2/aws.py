"""The real aws command, with Amazon left out.

The command line is read, checked against the service models, and turned into calls by awscli itself; each call is then
answered here, by a small account that lives in the JSON file $AWS_ACCOUNT, instead of being sent. Answers are checked
against the models, too. The operation $AWS_REFUSES is refused. The account refuses what EC2 would refuse in this story: unknown ids, and to delete what
something else still needs.
"""

import json
import os
import sys

import awscli.clidriver

ACCOUNT = os.environ["AWS_ACCOUNT"]
REGION = os.environ["AWS_DEFAULT_REGION"]


class Http:
    status_code = 200
    headers = {}


class Account:
    """What exists, by id, and the calls that made it."""

    def __init__(self):
        try:
            with open(ACCOUNT) as file:
                self.kept = json.load(file)
        except FileNotFoundError:
            self.kept = {"calls": [], "things": {}, "buckets": {}, "made": 0}

    def save(self):
        with open(ACCOUNT, "w") as file:
            json.dump(self.kept, file, indent=1, default=str)

    def make(self, kind, prefix, params, **more):
        self.kept["made"] += 1
        thing = f"{prefix}-{self.kept['made']:017x}"
        tags = [tag for tags in params.get("TagSpecifications", []) for tag in tags["Tags"] if tags["ResourceType"] == kind]
        self.kept["things"][thing] = {"kind": kind, "tags": {tag["Key"]: tag["Value"] for tag in tags}, **more}
        return thing

    def get(self, thing, kind):
        found = self.kept["things"].get(thing)
        if not found or found["kind"] != kind:
            sys.exit(f"the account has no {kind} '{thing}'")
        return found

    def delete(self, thing, kind, *needed_by):
        self.get(thing, kind)
        for other, what in self.kept["things"].items():
            if what["kind"] in needed_by and thing in json.dumps(what):
                sys.exit(f"{kind} {thing} is still needed by {what['kind']} {other}")
        del self.kept["things"][thing]

    def list(self, kind, params):
        """Of this kind those that pass the filters on tags; other filters must be ones that everything passes."""
        found = {name: what for name, what in self.kept["things"].items() if what["kind"] == kind}
        for wanted in params.get("Filters", []):
            name, values = wanted["Name"], wanted["Values"]
            if name.startswith("tag:"):
                fits = lambda tags, key=name[4:]: any(v.strip("*") in tags.get(key, "") if "*" in v else tags.get(key) == v for v in values)
                found = {name: what for name, what in found.items() if fits(what["tags"])}
            elif name != "instance-state-name" or "running" not in values:
                sys.exit(f"the account knows no filter {wanted}")
        return found


account = Account()


def create(kind, prefix, answer, key, **links):
    def call(params):
        for name, target in links.items():
            account.get(params[name], target)
        return {answer: {key: account.make(kind, prefix, params, needs=[params[name] for name in links])}}
    return call


def delete(kind, key, *needed_by):
    def call(params):
        account.delete(params[key], kind, *needed_by)
        return {}
    return call


def listing(kind, answer, key):
    return lambda params: {answer: [{key: name} for name in account.list(kind, params)]}


def create_security_group(params):
    account.get(params["VpcId"], "vpc")
    return {"GroupId": account.make("security-group", "sg", params, needs=[params["VpcId"]], rules=[])}


def authorize_ingress(params):
    account.get(params["GroupId"], "security-group")["rules"] += params["IpPermissions"]
    return {"Return": True}


def run_instances(params):
    interface = params["NetworkInterfaces"][0]
    subnet = account.get(interface["SubnetId"], "subnet")
    for group in interface["Groups"]:
        account.get(group, "security-group")
    prefix = subnet["cidr"].rsplit(".", 1)[0] + "."
    if not interface["PrivateIpAddress"].startswith(prefix):
        sys.exit(f"{interface['PrivateIpAddress']} is not in the subnet {subnet['cidr']}")
    name = account.make("instance", "i", params, asked=params, needs=[interface["SubnetId"], *interface["Groups"]])
    return {"Instances": [{"InstanceId": name}]}


def describe_instances(params):
    def shown(name, what):
        public = what["asked"]["NetworkInterfaces"][0]["AssociatePublicIpAddress"]
        return {"InstanceId": name, "State": {"Name": "running"}, **({"PublicIpAddress": "203.0.113.7"} if public else {})}
    if "InstanceIds" in params:  # terminated ones are told about for a while
        return {"Reservations": [{"Instances": [{"InstanceId": name, "State": {"Name": "terminated"}} for name in params["InstanceIds"]]}]}
    return {"Reservations": [{"Instances": [shown(*thing)]} for thing in account.list("instance", params).items()]}


def terminate_instances(params):
    for name in params["InstanceIds"]:
        account.delete(name, "instance")
    return {"TerminatingInstances": []}


def create_subnet(params):
    account.get(params["VpcId"], "vpc")
    return {"Subnet": {"SubnetId": account.make("subnet", "subnet", params, cidr=params["CidrBlock"], zone=params["AvailabilityZone"], needs=[params["VpcId"]])}}


def attach(params):
    account.get(params["InternetGatewayId"], "internet-gateway")["needs"] = [params["VpcId"]]
    return {}


def detach(params):
    account.get(params["InternetGatewayId"], "internet-gateway")["needs"] = []
    return {}


def delete_endpoints(params):
    for name in params["VpcEndpointIds"]:
        account.delete(name, "vpc-endpoint")
    return {"Unsuccessful": []}


def describe_images(params):
    names = [value for wanted in params["Filters"] if wanted["Name"] == "name" for value in wanted["Values"]]
    if params["Owners"] != ["136693071363"] or names != ["debian-12-amd64-*"]:
        sys.exit(f"no such images: {params}")
    return {"Images": [{"ImageId": f"ami-{day:017x}", "CreationDate": f"2026-10-{day:02}T00:00:00.000Z"} for day in (3, 17, 9)]}


def bucket(params):
    return account.kept["buckets"][params["Bucket"]]


def create_bucket(params):
    account.kept["buckets"][params["Bucket"]] = []
    return {}


def put_object(params):
    bucket(params).append(params["Key"])
    return {"ETag": '"0"'}


def delete_object(params):
    bucket(params).remove(params["Key"])
    return {}


def delete_bucket(params):
    if bucket(params):
        sys.exit("the bucket is not empty")
    del account.kept["buckets"][params["Bucket"]]
    return {}


ANSWERS = {
    "CreateVpc": create("vpc", "vpc", "Vpc", "VpcId"),
    "CreateInternetGateway": create("internet-gateway", "igw", "InternetGateway", "InternetGatewayId"),
    "AttachInternetGateway": attach,
    "DetachInternetGateway": detach,
    "CreateRouteTable": create("route-table", "rtb", "RouteTable", "RouteTableId", VpcId="vpc"),
    "CreateRoute": lambda params: account.get(params["GatewayId"], "internet-gateway") and {"Return": True},
    "DescribeAvailabilityZones": lambda params: {"AvailabilityZones": [{"ZoneName": REGION + letter, "RegionName": REGION} for letter in "abcd"]},
    "CreateSubnet": create_subnet,
    "AssociateRouteTable": lambda params: account.get(params["SubnetId"], "subnet") and {"AssociationId": "rtbassoc-1"},
    "CreateVpcEndpoint": create("vpc-endpoint", "vpce", "VpcEndpoint", "VpcEndpointId", VpcId="vpc"),
    "CreateSecurityGroup": create_security_group,
    "AuthorizeSecurityGroupIngress": authorize_ingress,
    "DescribeImages": describe_images,
    "RunInstances": run_instances,
    "DescribeInstances": describe_instances,
    "GetConsoleOutput": lambda params: {"InstanceId": params["InstanceId"], "Output": ""},
    "TerminateInstances": terminate_instances,
    "DescribeVpcs": listing("vpc", "Vpcs", "VpcId"),
    "DescribeVpcEndpoints": listing("vpc-endpoint", "VpcEndpoints", "VpcEndpointId"),
    "DescribeSecurityGroups": listing("security-group", "SecurityGroups", "GroupId"),
    "DescribeSubnets": listing("subnet", "Subnets", "SubnetId"),
    "DescribeRouteTables": listing("route-table", "RouteTables", "RouteTableId"),
    "DescribeInternetGateways": listing("internet-gateway", "InternetGateways", "InternetGatewayId"),
    "DeleteVpcEndpoints": delete_endpoints,
    "DeleteSecurityGroup": delete("security-group", "GroupId", "instance"),
    "DeleteSubnet": delete("subnet", "SubnetId", "instance"),
    "DeleteRouteTable": delete("route-table", "RouteTableId", "subnet"),
    "DeleteInternetGateway": delete("internet-gateway", "InternetGatewayId"),
    "DeleteVpc": delete("vpc", "VpcId", "subnet", "security-group", "route-table", "vpc-endpoint", "internet-gateway", "instance"),
    "CreateBucket": create_bucket,
    "PutObject": put_object,
    "ListObjectsV2": lambda params: {"Contents": [{"Key": key, "Size": 1, "LastModified": "2026-11-01T00:00:00.000Z"} for key in bucket(params)]},
    "DeleteObject": delete_object,
    "DeleteBucket": delete_bucket,
}


def fits(value, shape, where):
    """What the account answers must be something that the service could have answered."""
    if shape is None:
        return value == {}
    if shape.type_name == "structure":
        for key, inner in value.items():
            if key not in shape.members:
                sys.exit(f"the account's answer has {where}.{key}, which the model does not know")
            fits(inner, shape.members[key], f"{where}.{key}")
    elif shape.type_name == "list":
        for inner in value:
            fits(inner, shape.member, where)


asked = {}


def remember(params, model, **_):
    asked[model.name] = {key: value for key, value in params.items() if key != "Body"}


def answer(model, **_):
    params = asked[model.name]
    account.kept["calls"].append({"operation": model.name, "params": params})
    if model.name not in ANSWERS:
        sys.exit(f"the account does not know {model.name}; teach it in {__file__}")
    if model.name == os.environ.get("AWS_REFUSES"):
        sys.exit(f"{model.name} is refused")
    said = ANSWERS[model.name](params)
    fits(said, model.output_shape, model.name)
    account.save()
    return Http(), {**said, "ResponseMetadata": {"HTTPStatusCode": 200}}


driver = awscli.clidriver.create_clidriver()
driver.session.register("provide-client-params.*.*", remember)
driver.session.register("before-call.*.*", answer)
sys.exit(driver.main())
