{{ config(
    pre_hook="create table if not exists " ~ target.schema ~ ".hook_log (what varchar(100), invocation varchar(64))",
    post_hook=[
      "insert into " ~ target.schema ~ ".hook_log values ('{{ this.identifier }} {{ model.name }}', '{{ invocation_id }}')",
      {"sql": "insert into " ~ target.schema ~ ".hook_log values ('after', '{{ env_var(\"DBT_FEATURES_MOOD\", \"calm\") }}')", "transaction": false}
    ]
) }}
select c.customer_id, c.name, coalesce(t.total, 0) as total, '{{ var("region") }}' as region_wanted
from {{ ref('stg_customers') }} c left join {{ ref('eph_totals') }} t on t.customer_id = c.customer_id
